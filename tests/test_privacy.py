"""Privacy: the permissions and contents of written files, and that `rm` leaves nothing in the library."""

import getpass
import json
import os
import platform
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner

from pmagic import pictures
from pmagic.cli import console, doctor
from pmagic.cli.app import app
from pmagic.library.store import Library
from pmagic.mini import samples
from pmagic.persona import Persona

Make = Callable[..., Persona]
runner = CliRunner()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_folders_and_files_are_private(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    for path in [library.root, *library.root.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_removing_a_name_erases_every_file_of_it(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    library.save("alice", persona())
    library.save("bob", persona())
    assert [str(each) for each in library.remove("alice")] == ["alice@1", "alice@2"]
    assert library.names() == ["bob"]
    assert not any("alice" in str(path) for path in library.root.rglob("*"))


def test_rm_removes_one_version_or_all(library: Library, persona: Make) -> None:
    for _ in range(3):
        library.save("alice", persona())
    assert runner.invoke(app, ["rm", "alice@2"]).stdout.split() == ["alice@2"]
    assert runner.invoke(app, ["rm", "alice"]).stdout.split() == ["alice@1", "alice@3"]
    assert library.names() == []
    again = runner.invoke(app, ["rm", "alice"])
    assert again.exit_code == 3


def test_rm_erases_an_unfinished_learning_too(library: Library, persona: Make) -> None:
    from pmagic.library import unfinished

    library.save("alice", persona())
    for name in ("alice", "bob"):
        with unfinished.locked_run(library.root, name) as folder:
            unfinished.file_for(folder, {}).write_bytes(b"state")
    assert runner.invoke(app, ["rm", "alice@1"]).stdout.splitlines() == ["alice@1"]
    assert runner.invoke(app, ["rm", "alice"]).stdout.splitlines() == ["alice (unfinished)"]
    assert runner.invoke(app, ["rm", "bob"]).stdout.splitlines() == ["bob (unfinished)"]
    assert not [path for path in library.root.rglob("*") if path.name in ("alice", "bob")]


def test_mv_takes_what_is_unfinished_along_and_rm_erases_it(library: Library, persona: Make) -> None:
    from pmagic.library import unfinished

    for name in ("alice", "bob"):
        library.save(name, persona())
        with unfinished.locked_run(library.root, name) as folder:
            (folder / "x.checkpoint").write_bytes(name.encode())
            unfinished.keep_options(folder, b"words")
    taken = runner.invoke(app, ["mv", "alice", "bob"])
    assert taken.exit_code == 2 and library.names() == ["alice", "bob"]
    assert runner.invoke(app, ["rm", "bob@1"]).exit_code == 0
    stopped = runner.invoke(app, ["mv", "alice", "bob"])
    assert stopped.exit_code == 2 and "learning 'bob' was stopped, too" in stopped.stderr
    assert library.names() == unfinished.resumable_names(library.root)[:1] == ["alice"]
    assert runner.invoke(app, ["mv", "alice", "anna"]).stdout == "anna@1\n"
    assert unfinished.resumable_names(library.root) == ["anna", "bob"]
    assert (library.root / ".unfinished" / "anna" / "x.checkpoint").read_bytes() == b"alice"
    assert runner.invoke(app, ["rm", "anna"]).exit_code == 0
    assert not [path for path in library.root.rglob("*") if path.name in ("alice", "anna")]


def test_what_a_killed_save_has_left_is_told_and_erased_whatever_the_name(library: Library, persona: Make) -> None:
    library.save("alice", persona())
    left = library.root / ".staging" / "saved"
    left.mkdir(parents=True)
    (left / "tensors.safetensors").write_bytes(b"somebody")
    sick = runner.invoke(app, ["doctor"])
    assert sick.exit_code == 1 and "has left a copy of a persona" in sick.stdout
    assert runner.invoke(app, ["rm", "nobody"]).exit_code == 3
    assert not left.parent.exists()
    assert runner.invoke(app, ["doctor"]).exit_code == 0


def test_rm_says_what_it_does_not_erase(library: Library, persona: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.Console, "talks", True)
    library.save("alice", persona())
    said = runner.invoke(app, ["rm", "alice"]).stderr
    assert "no secure erase" in said and "pictures, previews, plots and archives stay" in said


def test_doctor_tells_nothing_private(home: Path, library: Library, persona: Make, monkeypatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: home.parent)
    library.save("alice", persona())
    done = runner.invoke(app, ["doctor", "--json"])
    document = json.loads(done.stdout)
    assert document["personas"] == 1 and document["problems"] == []
    assert "alice" not in done.stdout and str(home.parent) not in done.stdout
    assert {"pmagic", "python", "system", "libraries", "device", "models", "places", "settings"} <= set(document)
    library.root.chmod(0o755)
    monkeypatch.setenv("PMAGIC_DEVICE", "cuda:9")
    (library.root / "alice" / "v0001" / "tensors.safetensors").write_bytes(b"x")
    sick = runner.invoke(app, ["doctor"])
    assert sick.exit_code == 1
    for said in ("other users may read", "chmod 700", "the device 'cuda:9'", "1 of the personas"):
        assert said in sick.stdout, sick.stdout


def test_doctor_shows_no_folder_of_the_persons_own(home: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "jane")
    monkeypatch.setenv("PMAGIC_BASE", str(tmp_path / "jane doe" / "base"))
    assert str(tmp_path) not in runner.invoke(app, ["doctor", "--json"]).stdout
    document = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert document["places"]["library"] == "$PMAGIC_HOME/library"
    assert document["settings"]["base"] == ".../base"
    assert "'.../base'" in document["problems"][0]["what"]
    monkeypatch.delenv("PMAGIC_BASE")
    for place, shown in (("/", str(tmp_path)), (str(tmp_path), "~"), (str(tmp_path)[:-1], str(tmp_path))):
        monkeypatch.setattr(Path, "home", lambda place=place: Path(place))
        assert doctor._hide_home(f"in {tmp_path}/x, or {tmp_path}") == f"in {shown}/x, or {shown}"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_what_is_written_elsewhere_is_private_too(library: Library, persona: Make, tmp_path: Path) -> None:
    """Archives, pictures and pages, and the folders that are made for them; plots: see test_cli_probing."""
    library.save("alice", persona(preview=pictures.encode_image(Image.new("RGB", (8, 8)), "png", {})))
    out = tmp_path / "out"
    assert runner.invoke(app, ["export", "alice", str(out / "sub" / "a.pmagic")]).exit_code == 0
    assert runner.invoke(app, ["gallery", "--out", str(out / "a.html")]).exit_code == 0
    for ending in pictures.ENDINGS:
        pictures.write_picture(Image.new("RGB", (8, 8)), out / f"a{ending}", {"prompt": "x"})
    written = [out, *out.rglob("*")]
    assert len(written) == 4 + len(pictures.ENDINGS)
    for path in written:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_nothing_of_the_photo_or_the_machine_is_in_a_bundle_an_archive_or_a_picture(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No user name, host, path, EXIF or GPS."""
    for variable in ("LOGNAME", "USER", "HOSTNAME"):
        monkeypatch.setenv(variable, "called-after-jane")
    for module, name in ((socket, "gethostname"), (platform, "node"), (getpass, "getuser")):
        monkeypatch.setattr(module, name, lambda: "called-after-jane")
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Jane Q. Person"
    exif[ExifTags.Base.Make] = "CameraOfJane"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    photo = tmp_path / "holiday-of-jane" / "jane.jpg"
    photo.parent.mkdir()
    with Image.open(next(samples.PORTRAITS.glob("*.png"))) as sample:
        sample.convert("RGB").save(photo, exif=exif)
    out = tmp_path / "out"
    words = ["--name", "x", "--base", "mini", "--recipe", "reference", "--iterations", "1"]
    for command in (
        ["learn", str(photo), *words],
        ["export", "x", str(out / "x.pmagic")],
        ["render", "x", "as a king", "--steps", "1", "--out", str(out / "x.jpg")],
    ):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, done.stderr
    private = [str(tmp_path), "holiday-of-jane", "jane.jpg", "Jane Q. Person", "CameraOfJane", "called-after-jane"]
    files = [*(library.root / "x" / "v0001").iterdir(), *out.iterdir()]
    assert len(files) == 5
    for path in files:
        data = path.read_bytes()
        assert not [each for each in private if each.encode() in data], path
    with Image.open(out / "x.jpg") as picture:
        assert set(picture.getexif()) == {ExifTags.Base.ImageDescription, ExifTags.IFD.Exif}  # the metadata's two texts
    with Image.open(library.root / "x" / "v0001" / "preview.png") as picture:
        assert not picture.getexif()
