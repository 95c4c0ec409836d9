"""Probing a photo: at which timesteps the base attends to the face, and the stages that follow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pmagic.tasks import base_options, photo_input, probe_step
from pmagic.tasks.photo_input import PhotoInput
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.loading import Base
    from pmagic.engine.probe import Probe
    from pmagic.engine.recipes import LearnSettings
    from pmagic.engine.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Probing:
    """A probe that is ready to run: photos checked, base opened. square: the part of the first photo that it sees."""

    photos: PhotoInput
    base: "Base"
    subject: "Subject"
    settings: "LearnSettings"
    square: "Image.Image"

    def run(self, reporter: Reporter) -> "Probe":
        """Bounds, curve and attention maps. Raises OutOfMemory, NumericFailure, and what the progress raises."""
        if reporter.talks:
            probe_step.say_time(reporter, self.base, self.subject, self.settings)
        return probe_step.run(reporter, self.base, self.subject, self.settings)

    def shared_inputs(self) -> dict[str, object]:
        """The inputs that a learning must share to use the result."""
        return probe_step.shared_inputs(self.photos, self.base, self.settings)


def prepare(
    reporter: Reporter,
    photos: Sequence["Path | Image.Image"],
    *,
    base: "Base | str | None" = None,
    word: str | None = None,
    face: int | None = None,
    mask: "Path | Image.Image | None" = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    before_opening: Callable[[], None] = lambda: None,
) -> Probing:
    """Reads and checks everything, cheapest first, then opens the base and encodes the photos.

    before_opening: called when everything but the base is checked.
    Raises NotFound, PhotoRefused, UsageError, WeightsMissing, Incompatible.
    """
    base_options.check_seed(seed)
    base_options.check_numbers(device, dtype)
    given = photo_input.read(reporter, photos, mask, word, style=False)
    spec = base_options.resolve_base(base)
    base_options.quiet_libraries()
    from pmagic.engine import prompts, recipes

    settings = recipes.settings_for(recipes.DEFAULT, spec.defaults, seed=seed, kind=given.kind)
    prompts.check_word(prompts.load_tokenizer(spec.tokenizer_folder), given.word)
    faces = given.select_faces(spec, settings, face)
    before_opening()
    opened = base_options.open_base(base, spec, base_options.device(device), dtype)
    photo_input.warn_of_strange_photos(reporter, opened, given, faces, face)
    return Probing(
        photos=given,
        base=opened,
        subject=given.encode(opened, faces),
        settings=settings,
        square=given.square(opened.size, faces),
    )
