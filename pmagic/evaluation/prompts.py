"""The prompts of an evaluation. None of them is used for learning."""

from pathlib import Path

from pmagic.engine.prompts import MAX_BYTES, NAME, read_prompts
from pmagic.errors import NotFound, UsageError

# The evaluation prompts of the paper's Figure 16, the left column before the right one. The paper evaluates with 17
# prompts and does not say which of these 25; PAPER is the first 17.
FIGURE_16: tuple[str, ...] = (
    "{} wearing a Santa hat",
    "{} in a construction outfit",
    "{} on the cover of Time magazine",
    "A movie poster of {}",
    "{} is wearing a doctoral gown",
    "{} in an astronaut suit",
    "A photo of {} wearing a life jacket",
    "{} as a jedi master",
    "{} wearing a sombrero",
    "{} in a farmer outfit",
    "{} dressed like a wizard",
    "A photo of {} in a black and white comic book style",
    "{} as a character in the Sherlock Holmes' movie",
    "A painting of {} in the style of Japanese ukiyo-e style",
    "A portrait of {} as a helicopter pilot",
    "{} buckled in a seat on a plane",
    "A selfie of {} in Times Square",
    "An oil painting of {}",
    "A photo of {} as a cowboy",
    "{} in a chef's outfit, cooking in a kitchen",
    "{} selfie standing under the pink blossoms of a cherry tree",
    "A vintage photograph of {}",
    "{} is reading a book",
    "{} wearing winter camo military gear in the snow",
    "A photo of {} in the jungle",
)
PAPER = FIGURE_16[:17]


def read(path: Path) -> tuple[str, ...]:
    """Read prompts from a file as engine.prompts.read_prompts. Each must contain `{}` for the name and occur once.

    Raises NotFound, or UsageError with the line number.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotFound(
            f"the prompts {path} cannot be read: {error.strerror}", "give a text file, or `paper`"
        ) from error
    found: dict[str, int] = {}
    for number, prompt in read_prompts(data, str(path)):
        if NAME not in prompt:
            raise UsageError(f"{path}, line {number}: {prompt!r} has no {NAME}", f"write {NAME} where the name stands")
        if prompt in found:
            raise UsageError(f"{path}, line {number}: {prompt!r} is line {found[prompt]} again", "leave it out")
        found[prompt] = number
    return tuple(found)
