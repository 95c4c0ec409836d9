"""The structure: which room may import which, what starts without torch, and where the network is."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pmagic

ROOT = Path(pmagic.__file__).parent
# Lowest first; a room imports only what stands before it, or itself (ARCHITECTURE, section 2).
FLOORS = [
    {"errors", "settings", "persona", "shelf", "bounded_toml", "network", "world"},
    {"losses", "library", "decoding"},
    {"pictures", "sheet"},
    {"bases", "vision", "datasets"},
    {"engine"},
    {"methods", "plugins"},
    {"tasks"},
    {"api"},
    {"evaluation"},
    {"cli", "__main__"},
]
WITHOUT_TORCH = [
    f"pmagic.{each}" for each in ("cli.app", "library.store", "persona", "settings", "decoding", "pictures")
]
HEAVY = {"torch", "transformers", "diffusers", "insightface", "huggingface_hub", "safetensors", "numpy", "PIL", "rich"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """(dotted name, syntax tree) of every module of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ast.parse(path.read_text())


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(full dotted name, line) of everything imported, anywhere in the module; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((each.name, node.lineno) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((f"{node.module}.{each.name}", node.lineno) for each in node.names)


def room(name: str) -> str:
    """`pmagic.library.store.Library` -> `library`."""
    return name.split(".")[1] if "." in name else ""


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room(name) in rooms)


def test_every_arrow_points_down() -> None:
    wrong = []
    for name, tree in modules():
        if room(name) in ("mini", ""):
            continue
        for imported, line in imports(tree):
            inside = not imported.startswith("pmagic.") or room(imported) == room(name)
            if inside or imported == "pmagic.__version__":
                continue
            if room(imported) == "mini" or floor(imported) > floor(name):
                wrong.append(f"{name}:{line} imports {imported}")
    assert wrong == []


def test_the_drawn_world_stands_on_the_ground() -> None:
    """The world is drawn without a model, a library or the program."""
    wrong = [
        f"{name}:{line} imports {imported}"
        for name, tree in modules()
        if room(name) == "world"
        for imported, line in imports(tree)
        if imported.split(".")[0] in ("torch", "transformers", "diffusers")
        or (imported.startswith("pmagic.") and room(imported) not in ("world", "errors", "settings"))
    ]
    assert wrong == []


def test_rooms_on_one_floor_do_not_import_each_other_in_a_circle() -> None:
    """Also among modules: no import at the top of a module leads back to it."""
    known = {name for name, _ in modules()}
    graph: dict[str, set[str]] = {}
    for name, tree in modules():
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        found = {imported for node in top for imported, _ in imports(node)}
        graph[name] = {each if each in known else each.rpartition(".")[0] for each in found} & known - {name}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for each in sorted(graph[name]):
                visit(each, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_these_start_without_torch(name: str) -> None:
    allowed = {"PIL"} if name in ("pmagic.pictures", "pmagic.decoding") else set()
    code = f"import sys, {name}; print(*sorted({HEAVY - allowed!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_the_cards_need_no_torch() -> None:
    imports = "import sys; from pmagic.bases import memory_estimate, model_spec"
    code = f"{imports}; model_spec.known(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_no_code_path_asks_whether_a_base_is_small() -> None:
    """`if base == "mini"` is a defect: the only mention of the name in a comparison would be one."""
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(isinstance(each, ast.Constant) and each.value == "mini" for each in [node.left, *node.comparators])
    ]
    assert wrong == []


def test_the_index_names_tests_that_are_there() -> None:
    index = (Path(__file__).parent / "README.md").read_text()
    rows = [line for line in index.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 19
    for row in rows:
        words = re.findall(r"`(\w+(?:\.py)?)`", row)
        assert words and words[0].endswith(".py"), row
        for word in words:
            if word.endswith(".py"):
                text = (Path(__file__).parent / word).read_text()
            else:  # a test of the file that is named before it
                assert f"\ndef {word}(" in text, word
