"""Older and newer formats: every released one stays readable, from frozen samples that earlier code has written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pmagic.errors import BundleDamaged, Incompatible
from pmagic.library import archive, bundle, migrations
from pmagic.library.store import Library
from pmagic.persona import Persona, StageBounds

FROZEN = Path(__file__).parent / "formats"
RELEASED = sorted(int(each.name) for each in FROZEN.iterdir())


def test_every_format_up_to_this_one_has_a_sample_and_a_migration() -> None:
    assert list(range(1, bundle.FORMAT + 1)) == RELEASED
    assert sorted(migrations.MIGRATIONS) == RELEASED[:-1]


@pytest.mark.parametrize("number", RELEASED)
def test_a_frozen_bundle_reads_as_on_its_first_day(number: int, library: Library) -> None:
    folder = FROZEN / str(number)
    persona = bundle.read(folder)
    assert (persona.method, persona.base, persona.word, persona.bounds) == (
        "personamagic",
        "mini",
        "face",
        StageBounds(300, 750),
    )
    assert persona.settings["learning_rate"] == 5e-5 and persona.settings["versions"] == {"pmagic": "0.1.0"}
    assert persona.curve == ((975, 0.25), (925, 0.5)) and persona.losses == {"masked_mse": 0.25}
    np.testing.assert_array_equal(persona.tensors["learner.weight"], np.arange(6).reshape(2, 3))
    assert persona.tensors["image_embedding"].dtype == np.float16
    assert persona.photos == ("b" * 64,) and persona.preview == b"\x89PNG, only in name"
    about = bundle.summary(folder)
    assert (about.recipe, about.iterations, about.seed) == ("paper", 1000, 3)
    again = library.import_archive(folder / "sample.pmagic", "alice")
    assert library.load(str(again))[1].settings == persona.settings


def test_this_format_still_writes_the_bytes_of_its_sample() -> None:
    """A change of the bytes is a new format: it needs a new number, a migration and a new sample."""
    folder = FROZEN / str(bundle.FORMAT)
    files = bundle.pack(bundle.read(folder))
    assert files == bundle.files(folder)
    assert archive.pack(files) == (folder / "sample.pmagic").read_bytes()


def test_a_migration_is_run_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two steps made up for this test: 1 called the word `class`, 2 kept bounds as a list."""

    def m1_class_is_word(table: migrations.Table) -> migrations.Table:
        table["word"] = table.pop("class")
        return table

    def m2_bounds_are_a_table(table: migrations.Table) -> migrations.Table:
        low, high = table["bounds"]
        return {**table, "bounds": {"low": low, "high": high}}

    monkeypatch.setattr(migrations, "MIGRATIONS", {1: m1_class_is_word, 2: m2_bounds_are_a_table})
    old = {"format": 1, "class": "cat", "bounds": [1, 2]}
    assert migrations.migrate(old, 3) == {"format": 3, "word": "cat", "bounds": {"low": 1, "high": 2}}
    assert old == {"format": 1, "class": "cat", "bounds": [1, 2]}
    with pytest.raises(BundleDamaged, match="it says format 1, but is not in that format: KeyError"):
        migrations.migrate({"format": 1}, 3)
    with pytest.raises(Incompatible, match="this pmagic reads 1 to 3"):
        migrations.migrate({"format": 4}, 3)


@pytest.mark.parametrize("stated", [2, 0, -1, True, 1.0, "1", None, 10**40, [1]])
def test_another_format_is_incompatible(stated: object) -> None:
    with pytest.raises(Incompatible, match=r"this pmagic reads 1$"):
        migrations.migrate({"format": stated}, 1)


def test_a_glance_of_what_is_laid_out_otherwise_is_as_good(tmp_path: Path, persona: Callable[..., Persona]) -> None:
    for name, fields in {
        "bare": {"settings": {"recipe": "paper"}},
        "quoted": {"word": 'sa"y', "settings": {"recipe": "paper", "iterations": 3, "seed": 4}},
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, data in bundle.pack(persona(**fields)).items():
            (folder / file).write_bytes(data)
        about = bundle.summary(folder)
        assert (about.word, about.recipe) == (fields.get("word", "face"), "paper")
        assert (about.iterations, about.seed) == ((3, 4) if name == "quoted" else (None, None))
