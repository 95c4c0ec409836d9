"""The report's arithmetic on made cells: means over pictures, standard errors over people, faces that are not found."""

from PIL import Image

from pmagic import pictures
from pmagic.experiments import report
from pmagic.sheet import contact_sheet
from pmagic.world.people import HELD_OUT, person


def cell(row: str, person: int, identities: list[float], obeyed: float = 1.0, seconds: float = 0.0) -> report.Cell:
    pictures = [Image.new("RGB", (8, 8)) for _ in identities]
    scores = [(each, 0.5, obeyed, float(each > 0.5)) for each in identities]
    return report.Cell(
        row=row,
        person=person,
        prompt="a photo of {}",
        pictures=pictures,
        scores=scores,
        seconds=seconds,
        strangers=0.1,
        same=0.9,
    )


def test_the_table_tells_means_errors_and_missing_faces() -> None:
    cells = [
        cell("A", 1, [0.2, 0.4]),
        cell("A", 2, [0.6, -1.0], obeyed=0.0),
        cell("B", 1, [1.0], seconds=59.6),
        cell("B", 2, [0.5], seconds=80.4),
    ]
    lines = list(report._table(cells))
    # A: (0.2 + 0.4 + 0.6 - 1) / 4; people 0.3 and -0.2, deviation 0.354, error 0.25; (0.05 - 0.1) / 0.8 of the way
    assert lines[2] == "| A | 0.050 ± 0.250 | -6% | 25% | 0.500 | 50% | 75% |  |"
    assert lines[3] == "| B | 0.750 ± 0.250 | 81% | 50% | 0.500 | 100% | 100% | 70 s |"


def test_strangers_alike_have_the_same_hair_and_near_skin_and_are_nobody_measured() -> None:
    strangers = report.alike(report.FIRST)
    who = person(report.FIRST)
    assert len(set(strangers)) == report.OTHERS
    assert all(person(k).hair_word == who.hair_word and abs(person(k).tone - who.tone) < 0.5 for k in strangers)
    assert min(strangers) > report.FIRST + 200 > HELD_OUT


def test_the_sheet_has_a_row_for_each_way_and_person_shown(tmp_path) -> None:
    cells = [cell(row, report.FIRST + k, [0.1]) for k in range(report.SHOWN + 2) for row in ("A", "B")]
    rows = report._sheet_rows(cells)
    assert len(rows) == 2 * report.SHOWN and rows[0][0] == "person 1: A"
    contact_sheet(tmp_path / "sheet.png", rows)
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.height > len(rows) * 128
    assert pictures.DIGITAL_SOURCE in sheet.info["XML:com.adobe.xmp"]


def test_every_prompt_has_its_own_drawing() -> None:
    """The first row of the table draws each prompt's scene; two equal scenes would make `obeyed` meaningless."""
    assert len({tuple(scene.items()) for scene in report.PROMPTS.values()}) == len(report.PROMPTS)
    assert all("{}" in prompt for prompt in report.PROMPTS)
