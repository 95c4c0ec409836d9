"""The evaluation of one subject, as a stream of results. It does not know where the results are stored.

For each variant, the probe finds the stages (once for all variants with the same probe settings), a persona is learned
(once for all variants with the same method and settings), and the pictures of each prompt are rendered in one batch and
measured.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from PIL import Image

from pmagic import methods, pictures
from pmagic.atomic_io import Buffer
from pmagic.engine import class_pictures, composing, face_selection, probe, prompts, rendering, step_cache, subject
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.evaluation import metrics
from pmagic.evaluation.eval_config import FACE, EvalSubject
from pmagic.evaluation.eval_context import EvalContext
from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Known
from pmagic.evaluation.store import CELL, PERSONA, VARIANT, Files, Result, as_json, cell, picture_name
from pmagic.evaluation.variants import Variant
from pmagic.library import bundle
from pmagic.persona import Persona
from pmagic.settings import class_pictures_dir

PROBE = "probe.json"
PLAIN = "plain.png"  # the picture of the plain class word with the persona applied
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
    kept: dict[str, Mapping[str, Buffer]]
    progress: Progress = lambda doing: None
    scratch: Path | None = None

    def results(self) -> Iterator[Result]:
        """Compute and yield the missing results of this subject, one by one.

        Raises PhotoRefused and the errors of learning and rendering.
        """
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
            resumes, start = checkpoint is not None and checkpoint.exists(), time.monotonic()
            persona = methods.take(method).learn(
                self.context.base,
                self.subject_for(settings),
                settings,
                lambda report: self.progress(f"learning, step {report.step} of {report.total}"),
                checkpoint,
            )
            seconds = None if resumes else time.monotonic() - start  # of an interrupted learning, only a part is known
            yield from self._store(f"{place}/{PERSONA}", bundle.pack(persona), seconds)
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)
        return place, bundle.unpack(self.kept[f"{place}/{PERSONA}"])

    def subject_for(self, settings: LearnSettings) -> Subject:
        """The subject, with the class pictures that the settings ask for; all subjects share these."""
        if not settings.prior:
            return self.subject
        found = class_pictures.class_latents(
            self.context.base,
            FACE,
            settings.prior,
            class_pictures_dir(),
            lambda done, total: self.progress("drawing class pictures"),
        )
        return replace(self.subject, class_latents=found)

    def _draw(self, variant: Variant, persona: Persona, drawing: str) -> Iterator[Result]:
        context, config = self.context, self.context.config
        seeds = [config.seed + k for k in range(config.pictures)]
        for number, prompt in enumerate(config.prompts):
            place = cell(drawing, number)
            if place in self.kept:
                continue
            start = time.monotonic()
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
            seconds = time.monotonic() - start
            plain = self._draw_plain(variant, persona, prompt)
            scores = metrics.measure(context.observers, self.make_sample(drawn, number, [plain]))
            files = {
                picture_name(k): pictures.encode_image(
                    picture, "png", {**self._metadata(variant, prompt), "seed": seeds[k]}
                )
                for k, picture in enumerate(drawn)
            }
            of_plain = {**self._metadata(variant, prompts.substitute_names(prompt, {"": FACE})), "seed": config.seed}
            files[PLAIN] = pictures.encode_image(plain, "png", of_plain)
            yield from self._store(place, {**files, CELL: as_json({"seeds": seeds, "scores": scores})}, seconds)

    def _draw_plain(self, variant: Variant, persona: Persona, prompt: str) -> Image.Image:
        """The prompt with the plain word and the persona applied; drawn once for all if that changes nothing."""
        context, settings = self.context, variant.render

        def draw() -> Image.Image:
            return rendering.render(context.base, None, prompt, [context.config.seed], settings, word=FACE)[0]

        if getattr(methods.take(variant.method), "DRIFTS", True):
            with composing.apply_personas(context.base, {"": persona}):
                return draw()
        key = _digest({**asdict(settings), "prompt": prompt})
        if key not in context.plain_pictures:
            context.plain_pictures[key] = draw()
        return context.plain_pictures[key]

    def make_sample(self, drawn: Sequence[Image.Image], prompt: int, plain: Sequence[Image.Image] = ()) -> Sample:
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
            plain=plain,
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

    def _store(self, place: str, files: Files, seconds: float | None = None) -> Iterator[Result]:
        """Yield a result, and keep the files of it that later work needs."""
        result = Result(place, files, seconds)
        self.kept[place] = result.lasting
        yield result

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


def persona_place(method: str, settings: LearnSettings) -> str:
    """The place of a persona. The default method is left out, so that places from before other methods stay valid."""
    named = {} if method == methods.DEFAULT else {"method": method}
    return _digest({**named, **settings.as_table()}, *OF_THE_PROBE)


def is_done(kept: Mapping[str, Mapping[str, Buffer]], variants: Sequence[str]) -> bool:
    """Whether a subject is complete for these variants. A variant's entry is stored after everything that it needs."""
    return all(f"variants/{key}" in kept for key in variants)


def _digest(table: Mapping[str, object], *without: str) -> str:
    """Eight hex digits of the SHA-256 of a table of settings, without the keys in `without`."""
    left = {key: value for key, value in table.items() if key not in without}
    return hashlib.sha256(json.dumps(left, sort_keys=True, default=str).encode()).hexdigest()[:8]
