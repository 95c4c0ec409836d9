"""A sitting: one person's part of an evaluation, as a stream of results. It knows nothing about where they are kept.

For each variant: the stages are found (once for all variants that ask in the same way), the person is learned (once for
all variants that come to the same method and settings), and each prompt's pictures are drawn in one batch and measured.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from PIL import Image

from pmagic import methods, pictures
from pmagic.engine import face_selection, probe, rendering, step_cache, subject
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.evaluation import metrics
from pmagic.evaluation.eval_config import FACE, EvalSubject
from pmagic.evaluation.eval_context import EvalContext
from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Known
from pmagic.evaluation.store import CELL, PERSONA, Files, Result, as_json, picture_name
from pmagic.evaluation.variants import Variant
from pmagic.library import bundle
from pmagic.persona import Persona

VARIANT, PROBE = "variant.json", "probe.json"
OF_THE_READING = ("iou_low", "iou_high", "narrowest", "fallback")  # settings that only say how a curve is read
OF_THE_PROBE = (*OF_THE_READING, "probe_iterations")  # and those that only say how the bounds are found
KIND = "picture of an evaluation"  # of a persona that no library holds
LARGEST = 1  # the face that counts in a photo of several

Progress = Callable[[str], None]  # is told what is being done at every step; what it raises goes through


@dataclass(kw_only=True)
class SubjectRun:
    """kept: the person's results so far, by place. scratch: where learnings in work are kept, None for nowhere."""

    context: EvalContext
    who: EvalSubject
    kept: dict[str, Mapping[str, bytes]]
    told: Progress = lambda doing: None
    scratch: Path | None = None
    _begun: float = field(default_factory=time.monotonic)

    def results(self) -> Iterator[Result]:
        """What is still missing of this person, piece by piece.

        Raises PhotoRefused and whatever learning and drawing raise.
        """
        self._begun = time.monotonic()
        self.require_photos()
        for variant in self.context.variants:
            if is_done(self.kept, [variant.key]):
                continue
            settings, about = yield from self._settled(variant)
            place, persona = yield from self._learned(variant.method, settings)
            drawing = f"{place}/{_digest(asdict(variant.render))}"
            yield from self._drawn(variant, persona, drawing)
            told = {**about, "persona": place, "drawing": drawing, "bounds": [persona.bounds.low, persona.bounds.high],
                    "losses": dict(persona.losses), "faceless": self.known.faceless}  # fmt: skip
            yield from self._finished(f"variants/{variant.key}", {VARIANT: as_json(told)})

    def require_photos(self) -> None:
        """Looks at the photos before any work that one without a face would make useless. Raises PhotoRefused."""
        _ = self.known, self.subject

    def _settled(self, variant: Variant) -> Generator[Result, None, tuple[LearnSettings, dict[str, object]]]:
        """The variant's settings with the bounds that the probe finds for this person, and what there is to tell."""
        settings = variant.learn
        if settings.bounds is not None:
            return settings, {}
        place = f"probe-{_digest(probe.probe_settings(settings).as_table(), *OF_THE_READING)}"
        if place not in self.kept:
            found = probe.probe(
                self.context.base,
                self.subject,
                settings,
                lambda done, total: self.told(f"{variant.title}: finding the stages"),
            )
            yield from self._finished(place, {PROBE: as_json({"curve": found.curve})})
        curve = tuple((int(t), float(iou)) for t, iou in json.loads(self.kept[place][PROBE])["curve"])
        bounds, fell_back = probe.read_bounds(curve, settings)
        return replace(settings, bounds=bounds), {"curve": curve, "fell_back": fell_back}

    def _learned(self, method: str, settings: LearnSettings) -> Generator[Result, None, tuple[str, Persona]]:
        """Where the persona of this method and these settings is kept, and the persona."""
        place = persona_place(method, settings)
        if f"{place}/{PERSONA}" not in self.kept:
            checkpoint = None if self.scratch is None else self.scratch / f"{self.who.place}-{place}.checkpoint"
            persona = methods.take(method).learn(
                self.context.base,
                self.subject,
                settings,
                lambda report: self.told(f"learning, step {report.step} of {report.total}"),
                checkpoint,
            )
            yield from self._finished(f"{place}/{PERSONA}", bundle.pack(persona))
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
        return place, bundle.unpack(self.kept[f"{place}/{PERSONA}"])

    def _drawn(self, variant: Variant, persona: Persona, drawing: str) -> Iterator[Result]:
        context, config = self.context, self.context.config
        seeds = [config.seed + k for k in range(config.pictures)]
        for number, prompt in enumerate(config.prompts):
            place = cell(drawing, number)
            if place in self.kept:
                continue
            with step_cache.cached_first_steps(context.base.pipeline.unet, context.answers, persona.bounds.high):
                drawn = rendering.render(
                    context.base,
                    persona,
                    prompt,
                    seeds,
                    variant.render,
                    on_step=lambda done, total, number=number: self.told(
                        f"{variant.title}: prompt {number + 1} of {len(config.prompts)}"
                    ),
                )
            scores = metrics.measured(context.observers, self.case(drawn, number))
            files = {
                picture_name(k): pictures.encoded(picture, "png", {**self._story(variant, prompt), "seed": seeds[k]})
                for k, picture in enumerate(drawn)
            }
            yield from self._finished(place, {**files, CELL: as_json({"seeds": seeds, "scores": scores})})

    def case(self, drawn: Sequence[Image.Image], prompt: int) -> Sample:
        """Pictures of the person by a prompt, counted from 0, ready to be measured."""
        known, context = self.known, self.context
        scale = context.scale(prompt, drawn[0].size)
        return Sample(
            pictures=drawn,
            prompt=prompt,
            prompts=context.spoken,
            learned=known.learned,
            unseen=known.unseen,
            scans=known.scans,
            scale=scale,
            read_learned=partial(getattr, self.who, "photos"),
            read_unseen=partial(getattr, self.who, "unseen"),
        )

    def _story(self, variant: Variant, prompt: str) -> dict[str, object]:
        """What goes into every picture, besides its seed."""
        settings = variant.render
        return {
            "kind": KIND,
            "persona": self.who.name,
            "prompt": prompt,
            "fingerprint": self.context.base.fingerprint,
            "negative": settings.negative,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "scheduler": settings.scheduler,
        }

    def _finished(self, place: str, files: Files) -> Iterator[Result]:
        """Hands a result on and remembers what of it is needed again."""
        result = Result(place, files, time.monotonic() - self._begun)
        self.kept[place] = result.lasting
        yield result
        self._begun = time.monotonic()

    @cached_property
    def subject(self) -> Subject:
        base, photos = self.context.base, self.who.photos
        known = None
        if isinstance(base.spec.faces, Path):
            names = [f"photo {number} of {self.who.name}" for number in range(1, len(photos) + 1)]
            known = face_selection.select_faces(base.spec, photos, names, pick=LARGEST)
        hashes = self.who.hashes[: len(photos)]
        return subject.encode_photos(base, photos, hashes, word=FACE, kind="face", mask=self.who.mask, known=known)

    @cached_property
    def known(self) -> Known:
        return self.context.observers.known(self.who)


def cell(drawing: str, prompt: int) -> str:
    """The place of one prompt's pictures, counted from 0; its name begins at 01."""
    return f"{drawing}-{prompt + 1:02d}"


def persona_place(method: str, settings: LearnSettings) -> str:
    """Where a persona is kept. The default method is not named, so that places made before there were others hold."""
    named = {} if method == methods.DEFAULT else {"method": method}
    return _digest({**named, **settings.as_table()}, *OF_THE_PROBE)


def is_done(kept: Mapping[str, Mapping[str, bytes]], variants: Sequence[str]) -> bool:
    """Whether a person's part is complete for these variants: all that a variant needs is kept before it is itself."""
    return all(f"variants/{key}" in kept for key in variants)


def _digest(table: Mapping[str, object], *without: str) -> str:
    """Eight hex digits of a table of settings."""
    left = {key: value for key, value in table.items() if key not in without}
    return hashlib.sha256(json.dumps(left, sort_keys=True, default=str).encode()).hexdigest()[:8]
