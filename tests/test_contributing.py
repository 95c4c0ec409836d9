"""The six examples of CONTRIBUTING.md pass the conformance tests of their shelves."""

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import adapter_samples
import pytest
import test_adapters_shelf
import test_bases_model_spec
import test_datasets_shelf
import test_evaluation_metrics
import test_losses_shelf
import test_methods_shelf
from PIL import Image
from test_cli_evaluating import Evaluate, evaluate, runner  # noqa: F401 - a fixture
from test_evaluation_metrics import case, eyes  # noqa: F401 - fixtures

from pmagic import methods, shelf
from pmagic.bases import loading, memory_estimate, model_spec
from pmagic.cli.app import app
from pmagic.evaluation import metrics
from pmagic.evaluation.metrics import Sample
from pmagic.evaluation.observers import Observers
from pmagic.library.store import Library

pytest_plugins = ["tiny"]

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (pmagic/[\w/]+)\.py\n(.*?)```", PAGE, re.DOTALL))

Add = Callable[[str], str]


@pytest.fixture
def add(tmp_path: Path) -> Iterator[Add]:
    """Puts an example on its shelf, in a folder that the shelf has for this test alone; the example's name."""
    added: list[tuple[object, str, str]] = []

    def put(path: str) -> str:
        name, module = Path(path).name, path.replace("/", ".")
        package = importlib.import_module(module.rpartition(".")[0])
        folder = tmp_path / "shelf"
        folder.mkdir()
        (folder / f"{name}.py").write_text(EXAMPLES[path])
        importlib.invalidate_caches()
        package.__path__.append(str(folder))
        added.append((package, str(folder), module))
        return name

    yield put
    for package, folder, module in added:
        package.__path__.remove(folder)
        sys.modules.pop(module, None)
        vars(package).pop(module.rpartition(".")[2], None)


def test_each_checklist_has_its_example() -> None:
    shelves = [
        "pmagic/methods",
        "pmagic/losses",
        "pmagic/bases/known",
        "pmagic/datasets",
        "pmagic/evaluation/metrics",
        "pmagic/adapters",
    ]
    assert [path.rpartition("/")[0] for path in EXAMPLES] == shelves
    assert PAGE.count("\n### Add a") == 6


@pytest.mark.parametrize("layout", ["sd1", "sd2"])
def test_a_method(add: Add, tiny_folders: dict[str, Path], library: Library, layout: str) -> None:
    name = add("pmagic/methods/two_vectors")
    assert name in shelf.names("methods")
    test_methods_shelf.test_learn_keep_apply(tiny_folders, library, name, layout)
    assert library.load("alice")[1].tensors["learner.vectors"].shape[0] == 2


def test_a_loss(add: Add) -> None:
    name = add("pmagic/losses/masked_l1")
    test_losses_shelf.test_contract(name)


def test_a_base(add: Add) -> None:
    name = add("pmagic/bases/known/openjourney")
    test_bases_model_spec.test_contract(name)


def test_a_data_set(add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = add("pmagic/datasets/flat")
    monkeypatch.setitem(
        test_datasets_shelf.LAYOUTS, name, lambda root: test_datasets_shelf.picture(root / "alice.png") and None
    )
    (tmp_path / "data").mkdir()
    test_datasets_shelf.test_contract(name, tmp_path / "data")


def test_a_metric(add: Add, eyes: Observers, case: Sample) -> None:  # noqa: F811
    name = add("pmagic/evaluation/metrics/brightness")
    test_evaluation_metrics.test_contract(name, eyes, case)
    measured = metrics.measure(eyes, replace(case, read_learned=lambda: [Image.new("RGB", (4, 4), "black")]))
    assert list(metrics.table_columns()).index("brightness") > list(metrics.table_columns()).index("one_face")
    assert measured["brightness"] == measured["brighter"] and measured["brightness"][0] > 0
    assert metrics.measure(eyes, case)["brighter"] == [None] * len(case.pictures)


def test_an_adapter(add: Add, tiny_base: loading.Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = add("pmagic/adapters/mean_color")
    monkeypatch.setitem(test_adapters_shelf.SAMPLES, name, adapter_samples.build_mean_color)
    test_adapters_shelf.test_contract(name, tiny_base, tmp_path)


def test_a_method_is_compared_with_the_others(add: Add, evaluate: Evaluate, tmp_path: Path) -> None:  # noqa: F811
    """No line of pmagic knows it."""
    name = add("pmagic/methods/two_vectors")
    done = evaluate(tmp_path / "out", "--method", f"textual_inversion,{name}", count=2)
    assert done.exit_code == 0, (done.stderr, done.exception)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {each["variant"] for each in results["means"]} == {"textual_inversion", name}
    assert {each["file"].split("/")[2] for each in results["pictures"] if each["variant"] == name} == {
        each["persona"] for each in results["stages"][name]
    }
    assert {(each["variant"], each["people"]) for each in results["differences"]} == {(name, 2)}
    dry = evaluate(tmp_path / "dry", "--method", "all", "--dry-run", "--json", count=2)
    assert json.loads(dry.stdout)["variants"] == len(methods.names())
    listed = json.loads(runner.invoke(app, ["methods", "--json"]).stdout)
    assert [each["name"] for each in listed] == methods.names() and name in methods.names()
    sizes = {each["name"]: each["bytes"] for each in listed}
    assert sizes[name] - sizes["textual_inversion"] == 4 * memory_estimate.text_width(model_spec.resolve("mini"))


def test_afterwards_the_shelves_are_as_they_were() -> None:
    assert "masked_l1" not in shelf.names("losses") and "pmagic.losses.masked_l1" not in sys.modules
