"""Where things live, and config.toml."""

from pathlib import Path

import pytest

from pmagic import settings
from pmagic.errors import UsageError


def test_pmagic_home_moves_everything(home: Path) -> None:
    for place in (settings.library_dir(), settings.models_dir(), settings.config_file(), settings.log_dir()):
        assert place.is_relative_to(home)


def test_without_pmagic_home_the_platform_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv("PMAGIC_HOME")
    assert settings.library_dir() == platformdirs.user_data_path("pmagic", appauthor=False) / "library"
    assert settings.config_file() == platformdirs.user_config_path("pmagic", appauthor=False) / "config.toml"


def test_asking_where_things_live_makes_nothing(home: Path) -> None:
    settings.library_dir(), settings.config()
    assert not home.exists()


def test_config_gives_base_and_device(home: Path) -> None:
    assert settings.config() == settings.Config(base=None, device="auto")
    _write(home, b'base = "mini"\ndevice = "cpu"\n')
    assert settings.config() == settings.Config(base="mini", device="cpu")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"base = ", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b'bse = "mini"', "unknown key 'bse'"),
        (b"base = 7", "base must be a text"),
        (b'base = ""', "base must be a text"),
        (b'format = "gif"', "format cannot be 'gif'"),
        (b'base = "caf\xe9"', "not valid TOML"),
        (b"base = " + b"9" * 5000, "not valid TOML"),
        (b"base = " + b"[" * 3000, "not valid TOML"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(home: Path, text: bytes, why: str) -> None:
    _write(home, text)
    with pytest.raises(UsageError, match=why) as caught:
        settings.config()
    assert "config.toml" in caught.value.what


def _write(home: Path, text: bytes) -> None:
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_bytes(text)
