"""The structure: which room may import which, what starts without torch, and where the network is."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pmagic

ROOT = Path(pmagic.__file__).parent
# Lowest first; a room imports only what stands before it, beside it, or itself (docs/design.md).
FLOORS = [
    {"errors", "settings", "persona", "shelf", "atomic_io", "base_names", "bounded_toml", "network", "world"}
    | {"image_formats", "png_chunks"},
    {"losses", "library", "decoding"},
    {"pictures", "sheet"},
    {"bases", "vision", "datasets"},
    {"engine"},
    {"methods", "adapters"},
    {"tasks"},
    {"api", "serving"},
    {"evaluation"},
    {"study"},
    {"mini", "cli"},
    {"experiments", "__main__"},
]
# Nobody else imports these: the miniature is to the program a folder of weights like any other.
IMPORTED_BY = {"mini": {"experiments"}, "cli": {"__main__"}, "experiments": set()}
# What only these rooms and modules may import: the extra of pyproject.toml that they need.
EXTRAS = {
    "pmagic.world": "world",
    "pmagic.mini": "world",
    "pmagic.experiments": "world",
    "pmagic.datasets.lfw": "lfw",
    "pmagic.evaluation.cluster": "cluster",
    "pmagic.serving": "serve",
}
NOT_NEEDED = {"urllib3"}  # imported only where another library has brought it
NOT_INSTALLED = {"sklearn": "scikit-learn", "ray": "ray"}  # the distribution, where the tests run without the extra
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
    for number, rooms in enumerate(FLOORS):
        if room(name) in rooms:
            return number
    raise AssertionError(f"{name}: no floor is known for the room {room(name)!r}: put it on one of FLOORS")


def wrong_arrows(house: Iterable[tuple[str, ast.Module]]) -> list[str]:
    """Every import, also inside a function, of a room that stands higher or that this room may not import."""
    wrong = []
    for name, tree in house:
        if name == "pmagic":  # gives names of the Python door, lazily
            continue
        for imported, line in imports(tree):
            inside = not imported.startswith("pmagic.") or room(imported) == room(name)
            if inside or imported == "pmagic.__version__":
                continue
            climbs = floor(imported) > floor(name)
            if climbs or room(name) not in IMPORTED_BY.get(room(imported), {room(name)}):
                wrong.append(f"{name}:{line} imports {imported}")
    return wrong


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """One way around each circle: `a -> b -> a`."""
    done: set[str] = set()
    found = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for each in sorted(graph[name]):
                visit(each, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
    return found


def module_graph(house: Iterable[tuple[str, ast.Module]]) -> dict[str, set[str]]:
    """What each module imports of the package, also inside functions."""
    trees = dict(house)
    graph = {}
    for name, tree in trees.items():
        found = {imported for imported, _ in imports(tree)}
        graph[name] = {each if each in trees else each.rpartition(".")[0] for each in found} & set(trees) - {name}
    return {name: targets - {"pmagic"} for name, targets in graph.items() if name != "pmagic"}


def room_graph(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {room(name): set() for name in graph}
    for name, targets in graph.items():
        rooms[room(name)] |= {room(each) for each in targets} - {room(name)}
    return rooms


def made(**texts: str) -> list[tuple[str, ast.Module]]:
    return [(f"pmagic.{name.replace('__', '.')}", ast.parse(text)) for name, text in texts.items()]


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    rooms = {room(name) for name, _ in modules()} - {""}
    assert rooms == set().union(*FLOORS)
    with pytest.raises(AssertionError, match=r"pmagic\.attic\.box: no floor is known for the room 'attic'"):
        wrong_arrows(made(attic__box="from pmagic import errors"))


def test_every_arrow_points_down() -> None:
    assert wrong_arrows(modules()) == []
    climbing = made(
        errors="def f():\n    from pmagic.cli import app",
        cli__app="from pmagic import errors\nfrom pmagic.mini import train",
        experiments__report="from pmagic.mini import train",
    )
    assert wrong_arrows(climbing) == [
        "pmagic.errors:2 imports pmagic.cli.app",
        "pmagic.cli.app:2 imports pmagic.mini.train",
    ]


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


def test_neither_modules_nor_rooms_import_each_other_in_a_circle() -> None:
    graph = module_graph(modules())
    assert circles(graph) == []
    assert circles(room_graph(graph)) == []
    turning = made(a__one="from pmagic.a.two import f", a__two="def f():\n    from pmagic.a import one")
    assert circles(module_graph(turning)) == ["pmagic.a.one -> pmagic.a.two -> pmagic.a.one"]


def undeclared(house: Iterable[tuple[str, ast.Module]]) -> list[str]:
    """Every import of a library that pyproject.toml does not name for that module: in the dependencies or its extra."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = packages_distributions()
    wrong = []
    for name, tree in house:
        extra = [extras[each] for room_or_module, each in EXTRAS.items() if f"{name}.".startswith(f"{room_or_module}.")]
        declared = {canonicalize_name(Requirement(each).name) for each in sum(extra, project["dependencies"])}
        for imported, line in imports(tree):
            top = imported.partition(".")[0]
            if top in sys.stdlib_module_names or top in NOT_NEEDED or top == "pmagic":
                continue
            found = known.get(top) or [NOT_INSTALLED.get(top, top)]
            if not declared & {canonicalize_name(each) for each in found}:
                wrong.append(f"{name}:{line} imports {top} of {', '.join(sorted(set(found)))}")
    return wrong


def test_every_library_that_is_imported_is_declared() -> None:
    assert undeclared(modules()) == []
    assert undeclared(made(world__brush="import skia")) == []
    hidden = made(cli__app="def f():\n    import skia", bases__kinds="import yaml", engine__mapper="import sklearn")
    assert undeclared(hidden) == [
        "pmagic.cli.app:2 imports skia of skia-python",
        "pmagic.bases.kinds:1 imports yaml of PyYAML",
        "pmagic.engine.mapper:1 imports sklearn of scikit-learn",
    ]


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_these_start_without_torch(name: str) -> None:
    allowed = {"PIL"} if name in ("pmagic.pictures", "pmagic.decoding") else set()
    code = f"import sys, {name}; print(*sorted({HEAVY - allowed!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_the_cards_need_no_torch() -> None:
    imports = "import sys; from pmagic.bases import memory_estimate, model_spec"
    code = f"{imports}; model_spec.known_bases(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_whoever_uses_the_package_gets_its_types() -> None:
    """PEP 561: without this file a type checker takes every name of pmagic for unknown."""
    assert (ROOT / "py.typed").is_file()


def fields_in_order(tree: ast.Module) -> Iterator[tuple[ast.ClassDef, int]]:
    """Each dataclass that takes positional arguments, and how many."""
    for node in ast.walk(tree):
        decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", ())]
        found = [each for each in decorators if each.removeprefix("dataclasses.").startswith("dataclass")]
        if isinstance(node, ast.ClassDef) and found and "kw_only=True" not in found[0]:
            yield node, sum(isinstance(each, ast.AnnAssign) for each in node.body)


def test_fields_in_order_are_counted() -> None:
    """Of two classes alike the one that takes keywords alone is not among them."""
    fields = "\n    ".join(f"{name}: int" for name in "abcdef")
    tree = ast.parse(
        f"@dataclass(frozen=True)\nclass A:\n    {fields}\n@dataclass(kw_only=True)\nclass B:\n    {fields}"
    )
    assert [(each.name, count) for each, count in fields_in_order(tree)] == [("A", 6)]


def test_what_has_more_than_five_fields_is_made_by_their_names() -> None:
    """Nobody reads `Row(6, "x", "y", 0.1, 0.2, 3)`, and two of a type change places unseen."""
    wrong = [
        f"{name}:{each.lineno} {each.name} has {count} fields in order"
        for name, tree in modules()
        for each, count in fields_in_order(tree)
        if count > 5
    ]
    assert wrong == []


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
