"""Learning a persona: check the photos, open the base, find the stages, train."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pmagic import methods
from pmagic.bases import light_imports
from pmagic.errors import Incompatible, NumericFailure, OutOfMemory, UsageError
from pmagic.library import probes, unfinished
from pmagic.library.probes import ProbeResult
from pmagic.methods import Method
from pmagic.tasks import base_options, class_pictures, photo_input, probe_step
from pmagic.tasks.photo_input import PhotoInput
from pmagic.tasks.previews import add_preview
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.loading import Base
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject
    from pmagic.engine.training import StepReport
    from pmagic.persona import Persona

Learned = TypeVar("Learned")  # what a method returns: a persona, or several
# Phases, in this order.
COMPILING, PICTURING, FINDING, TRAINING = "compiling", "drawing class pictures", "finding the stages", "learning"


@dataclass(kw_only=True)
class Learning:
    """A learning that is ready to run: everything that needs no training has been checked.

    low_memory: whether blocks are computed again instead of kept. phase, step: how far `run` has come, for the message
    after a stop. continued: whether `run` has found a checkpoint.
    """

    photos: PhotoInput
    base: "Base"
    subject: "Subject"
    method: str
    learner: Method  # the method's module on its shelf
    settings: "LearnSettings"
    low_memory: bool
    compiles: bool
    memory_needed: Callable[..., int]  # bytes, with low=True or low=False
    phase: str = FINDING
    step: int = 0
    continued: bool = False

    def run(
        self,
        reporter: Reporter,
        *,
        name: str = "the persona",
        folder: Path | None = None,
        resumed: bool = False,
        anew: str = "learn again without --resume",
        on_step: Callable[["StepReport"], None] = lambda report: None,
    ) -> "Persona":
        """The learned persona, with a small preview picture.

        folder: where checkpoints and the probe's result are kept while it runs, as `unfinished.locked_run` gives it;
        None keeps nothing. resumed: whether the learning must continue from the folder's checkpoint, if it has one.
        anew: how to start over, for a message. on_step: called after each iteration. What it raises, and what
        the reporter's progress raises, ends the learning after a checkpoint was written.
        Raises Incompatible, NumericFailure, OutOfMemory, StorageFailed, UsageError.
        """
        with self.explain_memory():
            if self.compiles:
                self.phase = COMPILING
                make_learner = self.learner.make_learner
                self.base = base_options.compile_base(reporter, self.base, self.subject, self.settings, make_learner)
            found = self.settle(reporter, folder)
            self.phase = TRAINING
            part = "" if found is None else "2 of 2: "
            checkpoint = None if folder is None else find_checkpoint(folder, self.inputs(), name, resumed, anew)

            def learn(after_step: Callable[["StepReport"], None]) -> "Persona":
                return self.learner.learn(
                    self.base, self.subject, self.settings, on_step=after_step, checkpoint=checkpoint
                )

            persona = self.train(reporter, f"{part}learning {name}", learn, checkpoint, on_step)
            return add_preview(reporter, self.base, with_stages(persona, found))

    def settle(self, reporter: Reporter, folder: Path | None) -> ProbeResult | None:
        """Draws the class pictures and finds the stages, if the settings need them. Returns the probe's result."""
        if self.settings.prior:
            self.phase = PICTURING
            self.subject = class_pictures.add_to(reporter, self.base, self.subject, self.settings.prior)
        if self.settings.bounds is not None:
            return None
        self.phase = FINDING
        found = self._find_stages(reporter, folder)
        self.settings = replace(self.settings, bounds=found.bounds)
        return found

    def inputs(self) -> dict[str, object]:
        """Everything that decides the outcome, as plain values. The same inputs may share a checkpoint."""
        table = self.settings.as_table()
        return {**self.photos.inputs(), "method": self.method, "base": self.base.fingerprint, "settings": table}

    def has_checkpoint(self, folder: Path) -> bool:
        """Whether this learning, with the stages it has now, can continue from a checkpoint in the folder."""
        return unfinished.file_for(folder, self.inputs()).exists()

    def _find_stages(self, reporter: Reporter, folder: Path | None) -> ProbeResult:
        """The stages of an earlier probe, if its result was kept. Else those of a new probe, whose result is kept."""
        shared = probe_step.shared_inputs(self.photos, self.base, self.settings)
        own = probe_step.own_inputs(self.photos, self.base, self.settings)
        found = None if folder is None else probe_step.find_kept(folder, shared, own)
        if found is not None:
            reporter.say(f"the stages were found before: {found.bounds.low}:{found.bounds.high}")
            probe_step.warn_of_fallback(reporter, found)
            return found
        if reporter.talks:
            probe_step.say_time(reporter, self.base, self.subject, self.settings, self.learner.make_learner)
        found = probe_step.as_found(
            probe_step.run(reporter, self.base, self.subject, self.settings, f"1 of 2: {probe_step.PROGRESS}")
        )
        reporter.say(f"dynamic for {found.bounds.low} <= t < {found.bounds.high}")
        if folder is not None:
            probes.keep(folder, own, found)
        return found

    def train(
        self,
        reporter: Reporter,
        what: str,
        learn: "Callable[[Callable[[StepReport], None]], Learned]",
        checkpoint: Path | None,
        on_step: Callable[["StepReport"], None],
    ) -> "Learned":
        """Calls `learn` with a function for its reports. If the memory is too small, continues once with less."""
        from pmagic.engine import memory

        run = partial(self._train, reporter, what, learn, checkpoint, on_step)
        if not self.low_memory:
            try:
                return run()
            except OutOfMemory as problem:
                again = ", and compiling the UNet once more" if self.base.compiled else ""
                reporter.warn(f"{problem.what}; continuing{base_options.LOW}{again}")
        with memory.gradient_checkpointing(self.base.pipeline):
            return run()

    def _train(
        self,
        reporter: Reporter,
        what: str,
        learn: "Callable[[Callable[[StepReport], None]], Learned]",
        checkpoint: Path | None,
        on_step: Callable[["StepReport"], None],
    ) -> "Learned":
        self.continued = self.continued or (checkpoint is not None and checkpoint.exists())
        if self.continued:
            reporter.say("continuing from the checkpoint of the learning that was stopped")
        with reporter.progress(what) as advance:

            def after_step(report: "StepReport") -> None:
                self.step = report.step
                on_step(report)
                terms = "  ".join(f"{term} {value:.3f}" for term, value in report.losses.items())
                advance(report.step, report.total, terms)

            try:
                return learn(after_step)
            except NumericFailure as problem:
                saved = checkpoint is not None and checkpoint.exists()
                kept = "nothing was published" + (f"; the last good state is in {checkpoint}" * saved)
                raise NumericFailure(
                    f"in iteration {min(self.step + 1, self.settings.iterations)}: {problem.what}",
                    problem.next_step,
                    kept,
                ) from problem

    @contextmanager
    def explain_memory(self) -> Iterator[None]:
        """Adds to an OutOfMemory how much memory learning takes on this base, and how to need less."""
        from pmagic.bases import memory_estimate

        try:
            yield
        except OutOfMemory as problem:
            free, batch = memory_estimate.memory_free(), self.settings.batch
            there = "" if free is None else f", {base_options.gigabytes(free)} are free now"
            usual, low = (base_options.gigabytes(self.memory_needed(low=low)) for low in (False, True))
            raise OutOfMemory(
                f"{problem.what}; learning on {self.base.name} with --batch {batch} takes about {usual}, with "
                f"--memory low {low}, besides the program's own{there}",
                "add --batch 1" if batch > 1 else "close other programs, or learn on a smaller --base",
                kept=problem.kept or "nothing was published",
            ) from problem


def find_checkpoint(folder: Path, inputs: Mapping[str, object], name: str, resumed: bool, anew: str) -> Path:
    """The checkpoint of these inputs. Raises Incompatible if a resumed learning has only one of other inputs."""
    checkpoint = unfinished.file_for(folder, inputs)
    if resumed and not checkpoint.exists() and unfinished.has_checkpoint(folder):
        raise Incompatible(  # an earlier version kept no inputs, or the probe finds other stages now
            "the photo, the base, its stages or pmagic's default values have changed since the learning of "
            f"{name!r} was started",
            f"restore the old ones, or {anew}",
            kept="what was learned so far",
        )
    return checkpoint


def with_stages(persona: "Persona", found: ProbeResult | None) -> "Persona":
    """The persona with the probe's result, if there was a probe."""
    from pmagic.engine import probe

    return persona if found is None else probe.with_probe_result(persona, found.curve, found.fallback_reason)


def prepare(
    reporter: Reporter,
    photos: "Sequence[Path | Image.Image]",
    *,
    base: "Base | str | None" = None,
    word: str | None = None,
    style: bool = False,
    face: int | None = None,
    mask: "Path | Image.Image | None" = None,
    method: str = methods.DEFAULT,
    recipe: str = "tuned",
    iterations: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    rank: int | None = None,
    prior: int | None = None,
    bounds: tuple[int, int] | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    memory: str = "auto",
    compiles: bool = False,
) -> Learning:
    """Reads and checks everything, cheapest first, then opens the base and encodes the photos.

    base: an opened one, or a name as `--base` takes it, None for the configured one. bounds: (low, high) timesteps of
    the dynamic stage instead of a probe. The other arguments are the options of `pmagic learn`.
    Raises NotFound, PhotoRefused, UsageError, WeightsMissing, Incompatible.
    """
    from pmagic.engine import prompts, recipes

    # First what needs no model: a wrong photo must not cost the user a minute.
    base_options.check_seed(seed)
    base_options.check_memory(memory)
    base_options.check_numbers(device, dtype)
    recipes.settings_for(
        recipe, {}, iterations=iterations, batch=batch, learning_rate=learning_rate, bounds=bounds
    )  # again below, with the values of the base's own file
    given = photo_input.read(reporter, photos, mask, word, style)
    methods.require(method)
    spec = base_options.resolve_base(base)
    if compiles:
        light_imports.enable(False)  # it needs the compiler, and what the libraries tell it on import
    base_options.quiet_libraries()
    chosen = methods.take(method)
    settings = chosen.settings_for(
        recipe,
        spec.defaults,
        iterations=iterations,
        batch=batch,
        learning_rate=learning_rate,
        rank=rank,
        prior=prior,
        seed=seed,
        bounds=bounds,
        kind=given.kind,
    )
    prompts.check_word(prompts.load_tokenizer(spec.tokenizer_folder), given.word)
    faces = given.select_faces(spec, settings, face)
    place = base_options.device(device)
    needed = partial(base_options.memory_to_learn, chosen, spec, settings, place, dtype)
    low = base_options.learn_low(reporter, needed, memory, place)
    if low and compiles:
        raise UsageError(
            "--compile does not work with low memory: what is computed again would be compiled again",
            "leave out --compile, or add --memory normal",
        )
    opened = base_options.open_base(base, spec, place, dtype)
    photo_input.warn_of_strange_photos(reporter, opened, given, faces, face)
    subject = given.encode(opened, faces)
    return Learning(
        photos=given,
        base=opened,
        subject=subject,
        method=method,
        learner=chosen,
        settings=settings,
        low_memory=low,
        compiles=compiles,
        memory_needed=needed,
    )
