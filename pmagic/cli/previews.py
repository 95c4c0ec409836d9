"""Pictures drawn while learning (`--preview-every`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.cli.console import Console
from pmagic.tasks.learning import Learning
from pmagic.tasks.previews import draw_preview

if TYPE_CHECKING:
    from pmagic.engine.training import StepReport


class Previews:
    """Draws a preview after every `every` steps into `<name>-previews/` in the current folder; never for None."""

    def __init__(self, console: Console, task: Learning, name: str, every: int | None) -> None:
        self.console, self.task, self.every = console, task, every
        self.folder = Path(f"{name}-previews")
        self.files: list[str] = []

    def after_step(self, report: "StepReport") -> None:
        """Call this after each step. Raises StorageFailed, OutOfMemory, NumericFailure."""
        if self.every is None or report.step % self.every or report.persona is None:
            return
        from pmagic import pictures

        image, metadata = draw_preview(self.task.base, report.persona())
        path = self.folder / f"step-{report.step:05d}.png"
        self.files.append(
            str(pictures.write_picture(image, path, {**metadata, "kind": "preview", "step": report.step}))
        )
        self.console.say(f"preview: {self.files[-1]}")
