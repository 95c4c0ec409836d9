"""Writes the sample portraits that are shipped beside the weights: three people whom no training has seen.

python -m pmagic.mini.samples
"""

from pathlib import Path

from PIL import Image

from pmagic.world.drawing import draw
from pmagic.world.people import HELD_OUT, person
from pmagic.world.scenes import PORTRAIT

SAMPLES = {"alice": HELD_OUT + 62, "bruno": HELD_OUT + 56, "chiara": HELD_OUT + 53}
FOLDER = Path(__file__).parent / "portraits"
SIDE = 256

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, seed in SAMPLES.items():
        Image.fromarray(draw([(person(seed), PORTRAIT)], side=SIDE).image).save(FOLDER / f"{name}.png", optimize=True)
