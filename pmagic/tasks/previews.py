"""The small picture kept with each persona, and the pictures drawn while learning."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pmagic.errors import NumericFailure, OutOfMemory
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.loading import Base
    from pmagic.persona import Persona

PROMPT = "a photo of {}"
SIDE = 256  # pixels of the kept preview, at most
STEPS = 20  # of the sampler, at most: enough to recognise a face


def draw_preview(base: "Base", persona: "Persona") -> "tuple[Image.Image, dict[str, object]]":
    """A picture with the base's usual settings but at most STEPS steps, and its metadata."""
    from pmagic.engine import recipes, rendering
    from pmagic.tasks.metadata import shared_metadata

    settings = recipes.render_settings_for(str(persona.settings["recipe"]), base.spec.defaults)
    settings = replace(settings, steps=min(settings.steps, STEPS))
    (image,) = rendering.render(base, persona, PROMPT, [0], settings)
    return image, {**shared_metadata(base, [persona], settings), "prompt": PROMPT, "seed": 0, "size": list(image.size)}


def add_preview(reporter: Reporter, base: "Base", persona: "Persona") -> "Persona":
    """The persona with a small portrait. If that cannot be drawn, warns and returns the persona without one."""
    from pmagic import pictures

    try:
        image, metadata = draw_preview(base, persona)
    except (NumericFailure, OutOfMemory) as problem:
        reporter.warn(f"the persona is kept without a preview: {problem.what}")
        return persona
    image.thumbnail((SIDE, SIDE))
    return replace(persona, preview=pictures.encode_image(image, "png", {**metadata, "size": list(image.size)}))
