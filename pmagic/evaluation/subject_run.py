"""The evaluation of one subject, as a stream of results. It does not know where the results are stored.

For each variant, the probe finds the stages (once for all variants with the same probe settings), a persona is learned
(once for all variants with the same method and settings), and the pictures of each prompt are rendered in one batch and
measured.
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
OF_THE_READING = ("iou_low", "iou_high", "narrowest", "fallback")  # settings that only affect how a probe curve is read
OF_THE_PROBE = (*OF_THE_READING, "probe_iterations")  # and those that only affect how the bounds are found
KIND = "picture of an evaluation"  # the kind of a picture whose persona is in no library
LARGEST = 1  # the face that is used in a photo with several faces: the largest

Progress = Callable[[str], None]  # called at every step with the current activity; its exceptions propagate


@dataclass(kw_only=True)
class SubjectRun:
    """kept: the subject's results so far, by place. scratch: the folder for learning checkpoints, None for none."""

    context: EvalContext
    who: EvalSubject
    kept: dict[str, Mapping[str, bytes]]
    progress: Progress = lambda doing: None
    scratch: Path | None = None
    _begun: float = field(default_factory=time.monotonic)

    def results(self) -> Iterator[Result]:
        """Compute and yield the missing results of this subject, one by one.

        Raises PhotoRefused and the errors of learning and rendering.
        """
        self._begun = time.monotonic()
        self.require_photos()
        for variant in self.context.variants:
            if is_done(self.kept, [variant.key]):
                continue
            settings, about = yield from self._resolve(variant)
            place, persona = yield from self._learn(variant.method, settings)
            drawing = f"{place}/{_digest(asdict(variant.render))}"
            yield from self._draw(variant, persona, drawing)
            told = {**about, "persona": place, "drawing": drawing, "bounds": [persona.bounds.low, persona.bounds.high],
                    "losses": dict(persona.losses), "faceless": self.known.faceless}  # fmt: skip
            yield from self._store(f"variants/{variant.key}", {VARIANT: as_json(told)})

    def require_photos(self) -> None:
        """Check the photos before any long work: without a face it would be useless. Raises PhotoRefused."""
        _ = self.known, self.subject

    def _resolve(self, variant: Variant) -> Generator[Result, None, tuple[LearnSettings, dict[str, object]]]:
        """The variant's settings with the probe's bounds for this subject, and the probe's results to report."""
        settings = variant.learn
        if settings.bounds is not None:
            return settings, {}
        place = f"probe-{_digest(probe.probe_settings(settings).as_table(), *OF_THE_READING)}"
        if place not in self.kept:
            found = probe.probe(
                self.context.base,
                self.subject,
                settings,
                lambda done, total: self.progress(f"{variant.title}: finding the stages"),
            )
            yield from self._store(place, {PROBE: as_json({"curve": found.curve})})
        curve = tuple((int(t), float(iou)) for t, iou in json.loads(self.kept[place][PROBE])["curve"])
        bounds, fallback_reason = probe.read_bounds(curve, settings)
        return replace(settings, bounds=bounds), {"curve": curve, "fell_back": fallback_reason}

    def _learn(self, method: str, settings: LearnSettings) -> Generator[Result, None, tuple[str, Persona]]:
        """The persona of this method and these settings, with its place; it is learned if it is missing."""
        place = persona_place(method, settings)
        if f"{place}/{PERSONA}" not in self.kept:
            checkpoint = None if self.scratch is None else self.scratch / f"{self.who.place}-{place}.checkpoint"
            persona = methods.take(method).learn(
                self.context.base,
                self.subject,
                settings,
                lambda report: self.progress(f"learning, step {report.step} of {report.total}"),
                checkpoint,
            )
            yield from self._store(f"{place}/{PERSONA}", bundle.pack(persona))
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
        return place, bundle.unpack(self.kept[f"{place}/{PERSONA}"])

    def _draw(self, variant: Variant, persona: Persona, drawing: str) -> Iterator[Result]:
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
                    on_step=lambda done, total, number=number: self.progress(
                        f"{variant.title}: prompt {number + 1} of {len(config.prompts)}"
                    ),
                )
            scores = metrics.measure(context.observers, self.make_sample(drawn, number))
            files = {
                picture_name(k): pictures.encode_image(
                    picture, "png", {**self._metadata(variant, prompt), "seed": seeds[k]}
                )
                for k, picture in enumerate(drawn)
            }
            yield from self._store(place, {**files, CELL: as_json({"seeds": seeds, "scores": scores})})

    def make_sample(self, drawn: Sequence[Image.Image], prompt: int) -> Sample:
        """Pictures of the subject for a prompt, counted from 0, as a Sample to be measured."""
        known, context = self.known, self.context
        scale = context.scale(prompt, drawn[0].size)
        return Sample(
            pictures=drawn,
            prompt=prompt,
            prompts=context.plain_prompts,
            learned=known.learned,
            unseen=known.unseen,
            scans=known.scans,
            scale=scale,
            read_learned=partial(getattr, self.who, "photos"),
            read_unseen=partial(getattr, self.who, "unseen"),
        )

    def _metadata(self, variant: Variant, prompt: str) -> dict[str, object]:
        """The metadata of a picture, besides its seed."""
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

    def _store(self, place: str, files: Files) -> Iterator[Result]:
        """Yield a result, and keep the files of it that later work needs."""
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
    """The place of a prompt's pictures. prompt: counted from 0; the number in the name is counted from 01."""
    return f"{drawing}-{prompt + 1:02d}"


def persona_place(method: str, settings: LearnSettings) -> str:
    """The place of a persona. The default method is left out, so that places from before other methods stay valid."""
    named = {} if method == methods.DEFAULT else {"method": method}
    return _digest({**named, **settings.as_table()}, *OF_THE_PROBE)


def is_done(kept: Mapping[str, Mapping[str, bytes]], variants: Sequence[str]) -> bool:
    """Whether a subject is complete for these variants. A variant's entry is stored after everything that it needs."""
    return all(f"variants/{key}" in kept for key in variants)


def _digest(table: Mapping[str, object], *without: str) -> str:
    """Eight hex digits of the SHA-256 of a table of settings, without the keys in `without`."""
    left = {key: value for key, value in table.items() if key not in without}
    return hashlib.sha256(json.dumps(left, sort_keys=True, default=str).encode()).hexdigest()[:8]
