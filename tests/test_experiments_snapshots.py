"""The sheet of snapshots: which pictures of an evaluation it shows, and beside which photo."""

import json
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("skia")

from pmagic import sheet
from pmagic.datasets import world
from pmagic.experiments import snapshots

COLOURS = {"whole": (200, 30, 30), "stages": (30, 30, 200)}


def test_two_rows_a_person_each_begun_by_the_snapshot(tmp_path: Path) -> None:
    who = world.people(None, world.SNAPSHOTS)[5]
    pictures = []
    for variant, colour in COLOURS.items():
        for prompt in range(1, 9):
            file = f"{variant}-{prompt}.png"
            Image.new("RGB", (64, 64), colour).save(tmp_path / file)
            pictures.append({"variant": variant, "person": 1, "prompt": prompt, "seed": 0, "file": file})
    plan = {"people": [[who.name]], "variants": [{"key": key, "title": key} for key in COLOURS]}
    (tmp_path / "results.json").write_text(json.dumps({"plan": plan, "pictures": pictures}))
    snapshots.sheet_of(tmp_path, tmp_path / "sheet.png", people=3, variants=tuple(COLOURS))
    made = Image.open(tmp_path / "sheet.png").convert("RGB")
    row = sheet.LINE + sheet.CELL + sheet.GAP
    assert made.height == 2 * row + sheet.GAP
    middles = [sheet.LINE + sheet.CELL // 2 + k * row for k in range(2)]
    across = [sheet.GAP + sheet.CELL // 2 + k * (sheet.CELL + sheet.GAP) for k in range(1 + len(snapshots.PROMPTS))]
    for y, colour in zip(middles, COLOURS.values(), strict=True):
        assert [made.getpixel((x, y)) for x in across[1:]] == [colour] * len(snapshots.PROMPTS)
    photo = who.learned[0]().image.resize((sheet.CELL, sheet.CELL), Image.Resampling.LANCZOS)
    assert made.getpixel((across[0], middles[1])) == photo.getpixel((sheet.CELL // 2, sheet.CELL // 2))
