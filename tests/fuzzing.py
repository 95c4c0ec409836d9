"""Fuzz targets: every parser of bytes that may come from outside. They may raise only PmagicError.

`pytest tests/test_fuzzing.py` replays the corpus; `pip install atheris` and then

    python tests/fuzzing.py NAME [-max_total_time=600]

continues the search from it (libFuzzer's options), and stores new inputs in tests/corpus/NAME.
"""

import contextlib
import hashlib
import html.parser
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    import atheris

    traced = atheris.instrument_imports(include=["pmagic"])
else:
    traced = contextlib.nullcontext()

with traced:
    from pmagic import decoding, pictures, settings
    from pmagic.base_names import base_name
    from pmagic.bases import kinds, memory_estimate, model_spec
    from pmagic.cli import compose, drawing, gallery, options, prompt_files, reproduce, resuming
    from pmagic.cli.console import clean
    from pmagic.engine import checkpoint, recipes
    from pmagic.errors import NotFound, PmagicError, UsageError
    from pmagic.evaluation import prompts as evaluated
    from pmagic.evaluation import store as evaluation
    from pmagic.library import archive, bundle, naming, probes, tensors, unfinished
    from pmagic.persona import MAX_TOKENS

CORPUS = Path(__file__).parent / "corpus"
WEIGHTS = {"w": np.array([1.0, 2.0], dtype=np.float32)}
_FOLDER = Path(tempfile.mkdtemp(prefix="pmagic-fuzzing-"))


def persona_toml(data: bytes) -> None:
    """Hostile lines below the first line, with the right hash."""
    head = f"# pmagic persona, SHA-256 of the lines below: {hashlib.sha256(data).hexdigest()}\n".encode()
    (_FOLDER / bundle.TOML).write_bytes(head + data)
    with contextlib.suppress(PmagicError):
        bundle.summary(_FOLDER)
    persona = bundle.unpack({bundle.TOML: head + data, bundle.TENSORS: tensors.write(WEIGHTS)})
    assert persona.base == base_name(persona.base) != ""
    bundle.pack(persona)
    json.dumps(dict(persona.settings), allow_nan=False)
    assert 1 <= persona.settings.get("tokens", 1) <= MAX_TOKENS
    recipes.render_settings_for(persona.settings["recipe"], {})


def tensor_file(data: bytes) -> None:
    tensors.read(data, tensors.layout(WEIGHTS))


def archives(data: bytes) -> None:
    bundle.unpack(archive.unpack(_file(data)))


def address(data: bytes) -> None:
    name, version = naming.parse(data.decode(errors="surrogateescape"))
    assert not {"/", "\\", "\0"} & set(name) and name not in ("", ".", "..") and (version is None or version > 0)


def picture(data: bytes) -> None:
    path = _file(data)
    decoding.looks_like_photo(path)
    with contextlib.suppress(PmagicError):
        pictures.read_foreign_texts(path)
    assert pictures.read_photo(path).image.mode == "RGB"


def story(data: bytes) -> None:
    reproduce.repeat(pictures.read_metadata(_file(data)))


def repeated(data: bytes) -> None:
    """The command from a picture's metadata must give a shell the same words, whatever they contain."""
    import shlex

    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(told, dict):
        assert shlex.split(reproduce.repeat(told))[0] == "pmagic"


def config(data: bytes) -> None:
    os.environ["PMAGIC_HOME"] = str(_FOLDER)
    (_FOLDER / "config.toml").write_bytes(data)
    settings.config_table()


def base_defaults(data: bytes) -> None:
    (_FOLDER / "pmagic.toml").write_bytes(data)
    (_FOLDER / "model_index.json").write_text("{}")
    model_spec.resolve(str(_FOLDER))


def weights_header(data: bytes) -> None:
    """A base's weights and, after the first line, its network's configuration."""
    for part in kinds.PARTS:
        (_FOLDER / part).mkdir(exist_ok=True)
    (_FOLDER / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    configuration, _, weights = data.partition(b"\n")
    (_FOLDER / "unet" / "config.json").write_bytes(configuration)
    (_FOLDER / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    assert (
        memory_estimate.memory_to_learn(
            model_spec.ModelSpec(name="x", folder=_FOLDER, repo=None, clip="", size_gb=None, licence=""), batch=2
        )
        >= 0
    )


def checkpoint_file(data: bytes) -> None:
    learner = torch.nn.Linear(2, 2)
    kept = checkpoint.Checkpoint(_file(data), "identity")
    step, _ = kept.restore(learner, torch.optim.AdamW(learner.parameters()))
    assert step == 1


def probe_found(data: bytes) -> None:
    """A probe's result that cannot be read counts as none; any other has bounds."""
    probes._file(_FOLDER, {}).write_bytes(data)
    found = probes.find(_FOLDER, {})
    if found is None:
        raise NotFound("nothing usable", "probe again")
    assert 0 <= found.bounds.low < found.bounds.high <= 1000


def plan(data: bytes) -> None:
    (_FOLDER / evaluation.PLAN).write_bytes(data)
    evaluation.check(_FOLDER, {"seed": 0})


def evaluated_prompts(data: bytes) -> None:
    assert all("{}" in line and line.strip() == line for line in evaluated.read(_file(data)))


def numbers(data: bytes) -> None:
    """Each line as every option that takes numbers."""
    for line in data.decode(errors="surrogateescape").splitlines():
        for parse in (
            drawing.parse_size,
            options.parse_stages,
            compose.parse_layout,
            partial(compose.parse_box, size=(9, 9)),
        ):
            with contextlib.suppress(UsageError):
                parse(line)


def order(data: bytes) -> None:
    with unfinished.locked_run(_FOLDER, "alice") as folder:
        (folder / "x.checkpoint").touch()
        (folder / "order.json").write_bytes(data)
        resuming.recall(_FOLDER, "alice", resuming.LearnArgs())


def prompts(data: bytes) -> None:
    assert all(line.strip() == line != "" for line in prompt_files.prompts(None, _file(data)))


def text(data: bytes) -> None:
    """No control characters for a terminal are left, and no text becomes a tag of a page."""
    shown = clean(data.decode(errors="surrogateescape"))
    assert not {"\x1b", "\r", "\x9b", "\u202e"} & set(shown)
    shown.encode()  # no lone surrogate is left
    card_of = gallery.Card(shown, shown, "", {"base": shown, "word": shown})
    tags: list[str] = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(gallery.page("x", "personas", [card_of], ("base", "word")).decode())
    assert tags.count("script") == 1 and tags.count("img") == 0 and tags.count("article") == 1


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        persona_toml, tensor_file, archives, address, picture, story, repeated, config, base_defaults, order, prompts,
        text, weights_header, checkpoint_file, probe_found, plan, evaluated_prompts, numbers,
    )
}  # fmt: skip


def run(name: str, data: bytes) -> None:
    with contextlib.suppress(PmagicError):
        TARGETS[name](data)


def _file(data: bytes) -> Path:
    path = _FOLDER / "file"
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    chosen = sys.argv.pop(1)
    atheris.Setup([*sys.argv, str(CORPUS / chosen)], lambda data: run(chosen, data))
    atheris.Fuzz()
