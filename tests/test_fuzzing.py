"""The corpus of every fuzz target, replayed, and each of its files changed a little in many ways."""

import random
import warnings

import fuzzing
import pytest

CHANGES = 30  # of each file


@pytest.mark.parametrize("name", sorted(fuzzing.TARGETS))
def test_nothing_but_a_problem_is_raised(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMAGIC_HOME", str(fuzzing._FOLDER))  # `config` sets it
    files = sorted((fuzzing.CORPUS / name).iterdir())
    assert len(files) >= 3
    dice = random.Random(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about broken EXIF
        for file in files:
            data = file.read_bytes()
            fuzzing.run(name, data)
            for _ in range(CHANGES):
                fuzzing.run(name, changed(data, dice))


def test_the_corpus_reaches_what_is_behind_the_checks() -> None:
    """At least one file of each target is accepted: a corpus that is refused at once would test nothing."""
    for name, target in fuzzing.TARGETS.items():
        good = 0
        for file in (fuzzing.CORPUS / name).iterdir():
            try:
                target(file.read_bytes())
                good += 1
            except fuzzing.PmagicError:
                pass
        assert good, name


def changed(data: bytes, dice: random.Random) -> bytes:
    """A bit turned, a part cut out, doubled or overwritten."""
    if not data:
        return bytes([dice.randrange(256)])
    first = dice.randrange(len(data))
    last = min(len(data), first + dice.choice([1, 2, 4, 16, 64]))
    match dice.randrange(4):
        case 0:
            return data[:first] + bytes([data[first] ^ (1 << dice.randrange(8))]) + data[first + 1 :]
        case 1:
            return data[:first] + data[last:]
        case 2:
            return data[:last] + data[first:last] * dice.choice([1, 2, 50]) + data[last:]
    return data[:first] + dice.randbytes(last - first) + data[last:]
