"""config, models rm and path, --offline, doctor, -q and --json everywhere, and the table of exit codes."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pmagic import settings
from pmagic.bases import fetching, kinds, model_spec
from pmagic.cli.app import app
from pmagic.errors import WeightsMissing
from pmagic.library import unfinished
from pmagic.library.store import Library
from pmagic.persona import Persona

Make = Callable[..., Persona]
runner = CliRunner()


def test_set_then_get_and_the_environment_counts_more(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runner.invoke(app, ["config", "path"]).stdout == f"{home / 'config.toml'}\n"
    assert runner.invoke(app, ["config", "get"]).stdout.splitlines() == ["base = ", "device = auto", "format = png"]
    assert runner.invoke(app, ["config", "set", "base", "mini"]).exit_code == 0
    assert runner.invoke(app, ["config", "set", "format", "webp"]).exit_code == 0
    assert (home / "config.toml").read_text() == 'base = "mini"\nformat = "webp"\n'
    monkeypatch.setenv("PMAGIC_FORMAT", "jpeg")
    assert runner.invoke(app, ["config", "get", "format"]).stdout == "jpeg\n"
    warned = runner.invoke(app, ["config", "set", "format", "png"])
    assert "PMAGIC_FORMAT is set to 'jpeg'" in warned.stderr
    assert json.loads(runner.invoke(app, ["config", "get", "--json"]).stdout)["base"] == "mini"
    assert runner.invoke(app, ["config", "set", "base", ""]).exit_code == 0
    assert settings.config() == settings.Config(format="jpeg")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["set", "base", "minni"], 3, "did you mean 'mini'?"),
        (["set", "colour", "red"], 2, "error: there is no key 'colour'"),
        (["set", "colour", ""], 2, "error: there is no key 'colour'"),
        (["unset", "colour"], 2, "error: there is no key 'colour'"),
        (["set", "format", "gif"], 2, "error: format cannot be 'gif'"),
        (["set", "format", "gif"], 2, "choose one of: png, jpeg, webp"),
        (["get", "colour"], 2, "choose one of: base, device, format"),
    ],
)
def test_what_cannot_be_set_changes_nothing(home: Path, words: list[str], code: int, said: str) -> None:
    done = runner.invoke(app, ["config", *words])
    assert done.exit_code == code and said in done.stderr
    assert not (home / "config.toml").exists()


def test_a_variable_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMAGIC_FORMAT", "gif")
    done = runner.invoke(app, ["config", "get"])
    assert done.exit_code == 2 and "PMAGIC_FORMAT: format cannot be 'gif'" in done.stderr


def test_models_path_and_rm(home: Path, library: Library, persona: Make) -> None:
    assert runner.invoke(app, ["models", "path"]).stdout == f"{home / 'models'}\n"
    assert runner.invoke(app, ["models", "path", "mini"]).stdout.strip().endswith("base")
    folder = home / "models" / "owner--repo"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    assert runner.invoke(app, ["models", "path", "owner/repo"]).stdout == f"{folder}\n"
    library.save("alice", persona(base="owner/repo"))
    done = runner.invoke(app, ["models", "rm", "owner/repo"])
    assert (done.exit_code, done.stdout) == (0, "owner/repo\n")
    assert "alice@1 cannot be drawn before" in done.stderr
    assert list((home / "models").iterdir()) == []
    assert library.names() == ["alice"]
    (home / "models" / "owner--repo.part").mkdir()  # of an interrupted pull
    assert runner.invoke(app, ["models", "rm", "owner/repo"]).exit_code == 0


def test_offline_asks_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    done = runner.invoke(app, ["models", "pull", "sd14", "--offline"])
    assert done.exit_code == 7 and "HF_HUB_OFFLINE is set" in done.stderr


def test_a_file_that_arrives_otherwise_than_the_hub_states_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"good")
    fetching._require_digest(path, hashlib.sha256(b"good").hexdigest(), "w")
    fetching._require_digest(path, None, "w")
    with pytest.raises(WeightsMissing, match="its SHA-256 is not the hub's"):
        fetching._require_digest(path, hashlib.sha256(b"bad").hexdigest(), "owner/repo: w")
    assert not path.exists()


def test_the_sums_that_the_hub_states_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    file = SimpleNamespace(rfilename="model.safetensors", size=4, lfs=SimpleNamespace(sha256="c" * 64))
    text = SimpleNamespace(rfilename="config.json", size=2, lfs=None)
    info = SimpleNamespace(siblings=[file, text], sha="c0ffee", card_data=None)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo, **more: info)
    order = fetching._plan("owner/repo", fetching._observer_files, "x")
    assert order.digests == {"model.safetensors": "c" * 64}


def test_doctor_asks_for_what_learning_asks_for(home: Path) -> None:
    """With the base and CLIP here, but neither the face pack nor CLIPSeg, learning would end with code 7."""
    folder = home / "models" / "CompVis--stable-diffusion-v1-4"
    for part in (*kinds.PARTS, "../openai--clip-vit-base-patch32"):
        (folder / part).mkdir(parents=True)
        (folder / part / f"{kinds.stem_of(part)}.safetensors").touch()
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert model_spec.missing_parts(model_spec.resolve("sd14")) == []
    sick = runner.invoke(app, ["doctor"])
    assert sick.exit_code == 1
    assert sick.stdout.count("pmagic models pull buffalo_l") == 1
    assert sick.stdout.count("pmagic models pull CIDAS/clipseg-rd64-refined") == 1
    for name in ("buffalo_l", "CIDAS--clipseg-rd64-refined"):
        (home / "models" / name).mkdir()
    assert runner.invoke(app, ["doctor"]).stdout.endswith("nothing is wrong\n")
    (home / "models" / "buffalo_l.part").mkdir()
    assert "pmagic models pull buffalo_l starts it again" in runner.invoke(app, ["doctor"]).stdout


def commands(group: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]
    return found


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in commands(get_command(app))]
)
def test_every_command_has_json_and_an_example(path: tuple[str, ...], command: object) -> None:
    options = {option for each in command.params for option in each.opts}
    asks = path == ("shell",)  # it runs other commands, which have both
    assert "--json" in options or asks
    assert "-q" in options or asks or path == ("doctor",)  # a command that only prints messages
    assert f"pmagic {' '.join(path)}" in command.help.partition("\b")[2], "no example"


def test_quiet_prints_only_names_or_paths(library: Library, persona: Make, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    library.save("alice", persona())
    for words, said in {
        ("list", "-q"): "alice@1\n",
        ("show", "alice", "-q"): "alice@1\n",
        ("cp", "alice", "bob", "-q"): "bob@1\n",
        ("mv", "bob", "carol", "-q"): "carol@1\n",
        ("export", "alice", "-q"): "alice.pmagic\n",
        ("import", "alice.pmagic", "--as", "dora", "-q"): "dora@1\n",
        ("path", "alice", "-q"): f"{library.root / 'alice' / 'v0001'}\n",
        ("verify", "--all", "-q"): "",
        ("rm", "dora", "-q"): "dora@1\n",
    }.items():
        done = runner.invoke(app, list(words))
        assert (done.exit_code, done.stdout, done.stderr) == (0, said, ""), words
    (library.root / "alice" / "v0001" / "tensors.safetensors").write_bytes(b"x")
    assert runner.invoke(app, ["verify", "-q"]).stdout == "alice@1\n"
    assert runner.invoke(app, ["verify", "alice", "--all"]).exit_code == 2


REFUSED = {
    "recipe": (["learn", "p.png", "--name", "a", "--recipe", "best"], "there is no recipe 'best'"),
    "iterations": (["learn", "p.png", "--name", "a", "--iterations", "0"], "iterations must be at least 1"),
    "batch": (["learn", "p.png", "--name", "a", "--batch", "0"], "batch must be at least 1"),
    "rate": (["learn", "p.png", "--name", "a", "--learning-rate", "-1"], "the learning rate must be above 0"),
    "dtype": (["learn", "p.png", "--name", "a", "--dtype", "float8"], "there is no number type 'float8'"),
    "device": (["learn", "p.png", "--name", "a", "--device", "gpu"], "the device 'gpu' is not known"),
    "probe": (["probe", "p.png", "--dtype", "float8"], "there is no number type 'float8'"),
    "render": (["render", "alice", "x", "--device", "gpu"], "the device 'gpu' is not known"),
    "compose": (["compose", "{alice}", "--dtype", "float8"], "there is no number type 'float8'"),
    "eval": (["eval", "--dataset", "folder", "--device", "gpu"], "the device 'gpu' is not known"),
    "eval recipe": (["eval", "--dataset", "folder", "--recipe", "paper,best"], "there is no recipe 'best'"),
    "config": (["config", "set", "device", "tpu"], "the device 'tpu' is not known"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_values_that_cannot_be_are_refused_before_torch_is_imported(words: list[str], said: str) -> None:
    code = (
        "import sys\nfrom pmagic.cli.app import app\ntry:\n    app(sys.argv[1:])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.stdout, said in done.stderr) == ("2 False\n", True), done.stderr


def test_list_says_where_each_default_comes_from_and_unset_takes_one_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.invoke(app, ["config", "set", "format", "webp"]).exit_code == 0
    monkeypatch.setenv("PMAGIC_BASE", "mini")
    found = json.loads(runner.invoke(app, ["config", "list", "--json"]).stdout)
    assert found == {
        "base": {"value": "mini", "from": "PMAGIC_BASE"},
        "device": {"value": "auto", "from": ""},
        "format": {"value": "webp", "from": str(home / "config.toml")},
    }
    assert "comes with pmagic" in runner.invoke(app, ["config", "list"]).stdout
    assert runner.invoke(app, ["config", "unset", "format"]).exit_code == 0
    assert (home / "config.toml").read_text() == ""
    assert runner.invoke(app, ["config", "unset", "colour"]).exit_code == 2


def test_a_device_that_is_not_here_cannot_be_made_the_default(home: Path) -> None:
    done = runner.invoke(app, ["config", "set", "device", "hpu"])
    assert done.exit_code == 2 and "the device 'hpu' is not on this machine" in done.stderr
    assert not (home / "config.toml").exists()


@pytest.mark.parametrize("line", ['device = "tpu"', 'device = "hpu"', "device = 3", 'colour = "red"'])
def test_what_a_configuration_breaks_its_advice_mends(
    home: Path, line: str, monkeypatch: pytest.MonkeyPatch, library: Library, persona: Make
) -> None:
    """A file that was written by hand, by an earlier version, or on another machine."""
    library.save("alice", persona(settings={"recipe": "paper", "tokens": 4}, fingerprint="a" * 64))
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(f'format = "webp"\n{line}\n')
    draw = ["render", "alice", "x", "--base", "mini"]
    done = runner.invoke(app, draw)
    assert done.exit_code == 2 and str(home / "config.toml") in done.stderr, done.stderr
    key = line.partition(" ")[0]
    assert "`pmagic config unset KEY`" in done.stderr or f"`pmagic config unset {key}`" in done.stderr
    assert runner.invoke(app, ["config", "unset", key]).exit_code == 0
    assert (home / "config.toml").read_text() == 'format = "webp"\n'
    assert runner.invoke(app, draw).exit_code == 6  # the persona is of other weights, and nothing else is wrong
    monkeypatch.setenv("PMAGIC_DEVICE", "tpu")
    done = runner.invoke(app, draw)
    assert done.exit_code == 2 and "PMAGIC_DEVICE: the device 'tpu'" in done.stderr
    assert "unset PMAGIC_DEVICE" in done.stderr


def test_a_base_folder_is_kept_by_its_whole_path(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert runner.invoke(app, ["config", "set", "base", "own"]).exit_code == 0
    assert settings.config().base == str(tmp_path / "own")


def test_a_data_set_is_named_as_the_help_names_it() -> None:
    done = runner.invoke(app, ["eval", "--dataset", "coco", "--base", "mini"])
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        "error: there is no data set 'coco'",
        "  next: choose one of: celeba-hq, ffhq, folder, lfw, world, world-training",
    ]


def test_doctor_tells_a_running_learning_from_a_stopped_one(library: Library) -> None:
    def count(state: str) -> int:
        return json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)[state]

    with unfinished.locked_run(library.root, "alice") as folder:
        (folder / "x.checkpoint").touch()
        assert (count("learning now"), count("unfinished")) == (1, 0)
    assert (count("learning now"), count("unfinished")) == (0, 1)
