"""Learning several personas together: each from photos of its own, with one weight difference that they share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pmagic import methods
from pmagic.errors import UsageError
from pmagic.library import unfinished
from pmagic.tasks import learning
from pmagic.tasks.learning import Learning
from pmagic.tasks.previews import add_preview
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.training import StepReport
    from pmagic.persona import Persona


@dataclass(kw_only=True)
class JointLearning:
    """Personas that are ready to be learned together. parts: one for each name, on one opened base."""

    names: Sequence[str]
    parts: Sequence[Learning]

    @property
    def first(self) -> Learning:
        """The part that has the base and the number of steps of all, and the phase of this learning."""
        return self.parts[0]

    @property
    def settings(self) -> "LearnSettings":
        return self.first.settings

    @property
    def phase(self) -> str:
        return self.first.phase

    @property
    def step(self) -> int:
        return self.first.step

    def run(
        self, reporter: Reporter, *, folder: Path | None = None, resumed: bool = False, anew: str = "learn again"
    ) -> "list[Persona]":
        """The learned personas, in the order of the names. The arguments and errors are those of Learning.run."""
        who = " and ".join(self.names)
        with self.first.explain_memory():
            found = []
            for name, part in zip(self.names, self.parts, strict=True):
                if part.settings.bounds is None:
                    reporter.say(f"the stages of {name}:")
                found.append(part.settle(reporter, folder))
                self.first.phase = part.phase
            self.first.phase = learning.TRAINING
            checkpoint = None
            if folder is not None:
                checkpoint = learning.find_checkpoint(folder, self.inputs(), self.names[0], resumed, anew)

            def learn(after_step: Callable[["StepReport"], None]) -> "list[Persona]":
                subjects, settings = ([getattr(each, what) for each in self.parts] for what in ("subject", "settings"))
                return learn_together(self.first.method)(self.first.base, subjects, settings, after_step, checkpoint)

            personas = self.first.train(reporter, f"learning {who}", learn, checkpoint, lambda report: None)
            return [
                add_preview(reporter, self.first.base, learning.with_stages(*each))
                for each in zip(personas, found, strict=True)
            ]

    def inputs(self) -> dict[str, object]:
        """Everything that decides the outcome, as plain values with the keys of Learning.inputs."""
        each = [part.inputs() for part in self.parts]
        inputs: dict[str, object] = {key: [one[key] for one in each] for key in each[0]}
        tables = [part.settings.as_table() for part in self.parts]
        settings = {
            f"{name}: {key}": value
            for name, table in zip(self.names, tables, strict=True)
            for key, value in table.items()
        }
        return {**inputs, "settings": settings}

    def has_checkpoint(self, folder: Path) -> bool:
        """Whether this learning, with the stages it has now, can continue from a checkpoint in the folder."""
        return unfinished.file_for(folder, self.inputs()).exists()


def learn_together(method: str) -> "Callable[..., list[Persona]]":
    """The method's function for several subjects. Raises UsageError for a method that has none."""
    found = getattr(methods.take(method), "learn_together", None)
    if found is None:
        able = " or ".join(name for name in methods.names() if hasattr(methods.take(name), "learn_together"))
        raise UsageError(
            f"--together trains one change of the base's weights for all, which {method} cannot", f"add --method {able}"
        )
    return found


def prepare(
    reporter: Reporter,
    names: Sequence[str],
    photos: Sequence[Path],
    words: Sequence[str | None],
    *,
    method: str,
    iterations: int | None,
    **options: Any,
) -> JointLearning:
    """Reads and checks everything of each persona, then opens the base once. options: further ones of Learning's.

    photos: one, or a folder of them, for each name. words: the class word of each. iterations: None for the method's
    own, once for each persona, so that each has as many samples as alone. Raises as learning.prepare.
    """
    learn_together(method)
    from pmagic.engine import joint_training

    parts: list[Learning] = []
    for photo, word in zip(photos, words, strict=True):
        given: Mapping[str, Any] = options if not parts else {**options, "base": parts[0].base, "memory": "normal"}
        part = learning.prepare(reporter, [photo], word=word, method=method, iterations=iterations, **given)
        parts.append(part)
    for part in parts:
        part.settings = joint_training.divided(part.settings, len(parts), same_steps=iterations is not None)
    return JointLearning(names=names, parts=parts)
