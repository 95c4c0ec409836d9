"""Portraits of what is learned: pictures while learning (--preview-every), and the small one kept with each persona."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.cli.console import Console
from pmagic.errors import NumericFailure, OutOfMemory

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.loading import Base
    from pmagic.engine.training import StepReport
    from pmagic.persona import Persona

PROMPT = "a photo of {}"
SIDE = 256  # pixels of the kept preview, at most


class Previews:
    """Draws every few steps into `<name>-previews/` of the current folder; without a number, never."""

    def __init__(self, console: Console, base: "Base", name: str, every: int | None) -> None:
        self.console, self.base, self.every = console, base, every
        self.folder = Path(f"{name}-previews")
        self.files: list[str] = []

    def after(self, report: "StepReport") -> None:
        """To be called after each step. Raises StorageFailed, OutOfMemory, NumericFailure."""
        if self.every is None or report.step % self.every or report.persona is None:
            return
        from pmagic import pictures

        image, story = drawn(self.base, report.persona())
        path = self.folder / f"step-{report.step:05d}.png"
        self.files.append(str(pictures.write_picture(image, path, {**story, "kind": "preview", "step": report.step})))
        self.console.say(f"preview: {self.files[-1]}")


def drawn(base: "Base", persona: "Persona") -> "tuple[Image.Image, dict[str, object]]":
    """A portrait with the base's usual settings, and its story."""
    from pmagic.cli.stories import told
    from pmagic.engine import recipes, rendering

    how = recipes.render_settings_for(str(persona.settings["recipe"]), base.card.defaults)
    (image,) = rendering.render(base, persona, PROMPT, [0], how)
    return image, {**told(base, [persona], how), "prompt": PROMPT, "seed": 0, "size": list(image.size)}


def with_preview(console: Console, base: "Base", persona: "Persona") -> "Persona":
    """The persona with a small portrait; one that cannot be drawn is no reason to lose what was learned."""
    from pmagic import pictures

    try:
        image, story = drawn(base, persona)
    except (NumericFailure, OutOfMemory) as problem:
        console.warn(f"the persona is kept without a preview: {problem.what}")
        return persona
    image.thumbnail((SIDE, SIDE))
    return replace(persona, preview=pictures.encoded(image, "png", {**story, "size": list(image.size)}))
