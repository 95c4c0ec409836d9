"""The documentation and the program agree: commands, options, modules, links and exit codes are there."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import pmagic
from pmagic import errors
from pmagic.cli import stopping
from pmagic.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests/README.md"])
PROSE = [path for path in PAGES if path.name != "CHANGELOG.md"]  # which names commands that are gone
GUIDES = ["guide", "real-photos", "together", "evaluation", "performance", "miniature", "security", "troubleshooting",
          "python-api", "serve", "how-it-works", "methods", "lora-files", "commands", "design", "study",
          "sdxl", "adapters"]  # fmt: skip
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
OPTION = re.compile(r"--?[a-zA-Z][\w-]*")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands_of(text: str) -> Iterator[str]:
    """Every command line: of code blocks, and of code in running text that begins with a program's name."""
    lines = [line for block in FENCE.findall(text) for line in block.splitlines()]
    lines += [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text))]
    for line in lines:
        line = re.sub(r"\s+#.*", "", line).strip().removeprefix("$ ")
        for part in re.split(r"&&|\|", line):
            words = part.split()
            while words and re.fullmatch(r"\w+=\S*", words[0]):  # OMP_NUM_THREADS=1 pmagic ...
                words.pop(0)
            if words and words[0] in ("pmagic", "python", "make", "torchrun"):
                yield " ".join(words)


def words_of(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # an example with a single quote in running text
        return command.split()


def find_command(words: list[str]) -> tuple[object, list[str]]:
    """The Typer command that the words name, and the words after it."""
    found = get_command(app)
    while words and hasattr(found, "commands"):
        if words[0] not in found.commands:
            break
        found, words = found.commands[words[0]], words[1:]
    return found, words


PMAGIC = sorted({(path.name, line) for path in PROSE for line in commands_of(read(path)) if line.startswith("pmagic ")})
MODULES = sorted(
    {
        (path.name, module)
        for path in PROSE
        for line in commands_of(read(path))
        for module in re.findall(r"(?:python|torchrun)\b.*? -m ([\w.]+)", line)
    }
)
TARGETS = sorted(
    {
        (path.name, target)
        for path in PROSE
        for line in commands_of(read(path))
        for target in re.findall(r"^make (\S+)", line)
    }
)


def test_the_pages_name_commands() -> None:
    """Otherwise a pattern that no longer matches would leave the lists below empty."""
    assert len(PMAGIC) > 80 and len(MODULES) > 15 and len(TARGETS) >= 3
    assert ("real-photos.md", "pmagic setup --for photos --dry-run") in PMAGIC


@pytest.mark.parametrize(("page", "line"), PMAGIC, ids=[f"{page}:{line[:60]}" for page, line in PMAGIC])
def test_every_command_and_option_exists(page: str, line: str) -> None:
    command, rest = find_command(words_of(line)[1:])
    if rest == [] or rest[0].isupper() or rest[0] == "...":  # `pmagic`, `pmagic COMMAND --help`
        return
    assert not hasattr(command, "commands") or rest[0].startswith("-"), f"there is no command {rest[0]}"
    options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in rest if OPTION.fullmatch(word.partition("=")[0])]
    assert [word for word in given if word not in options] == []


@pytest.mark.parametrize(("page", "module"), MODULES)
def test_every_module_exists(page: str, module: str) -> None:
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize(("page", "target"), TARGETS)
def test_every_target_of_make_exists(page: str, target: str) -> None:
    assert re.search(rf"^{re.escape(target)}:", read(ROOT / "Makefile"), re.MULTILINE)


def test_every_command_of_the_program_is_in_the_table_of_commands() -> None:
    text = read(ROOT / "docs" / "commands.md")
    group = get_command(app)
    paths = []
    for name, command in group.commands.items():
        paths += [f"{name} {each}" for each in command.commands] if hasattr(command, "commands") else [name]
    assert [path for path in paths if f"`pmagic {path}" not in text] == []


def anchors(path: Path) -> set[str]:
    """The names that a page's headings have as link targets."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", read(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower().replace("`", "")).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", read(path))):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_every_file_that_the_pages_name_is_there() -> None:
    named = {
        (path.name, file)
        for path in PROSE
        for file in re.findall(r"`((?:pmagic|tests)/[\w/.-]+\.\w+)`", FENCE.sub("", read(path)))
        if "NAME" not in file
    }
    assert len(named) > 20
    assert [each for each in sorted(named) if not (ROOT / each[1]).exists()] == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) <= 170
    reachable = set(re.findall(r"docs/([\w-]+)\.md", text))
    for page in tuple(reachable):
        reachable |= set(re.findall(r"\]\(([\w-]+)\.md", read(ROOT / "docs" / f"{page}.md")))
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} == set(GUIDES) == reachable & set(GUIDES)


def test_every_picture_of_the_docs_is_shown() -> None:
    shown = {Path(link).name for path in PAGES for link in re.findall(r"\]\(([^)\s]+\.(?:png|jpg))\)", read(path))}
    there = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".jpg")}
    assert there == shown


def test_measured_tables_stand_under_the_command_that_prints_them() -> None:
    """Of the pages that measure: each section with a table of decimal numbers names a command."""
    wrong = []
    for name in ("performance", "together", "evaluation", "miniature"):
        for section in re.split(r"^## ", read(ROOT / "docs" / f"{name}.md"), flags=re.MULTILINE)[1:]:
            rows = [line for line in section.splitlines() if line.startswith("|") and re.search(r"\d\.\d", line)]
            if rows and not re.search(r"`?(python -m [\w.]+|pmagic \w+|make \w+)", " ".join(section.split())):
                wrong.append(f"{name}: {section.splitlines()[0]}")
    assert wrong == []


def test_the_exit_codes_of_the_docs_are_those_of_the_code() -> None:
    text = read(ROOT / "docs" / "commands.md")
    table = {int(code): name for code, name in re.findall(r"^\| (\d+) \| `?([\w ]+?)`? \|", text, re.MULTILINE)}
    classes = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.PmagicError)
    ]
    codes = {each.exit_code: each.__name__ for each in classes if each is not errors.PmagicError}
    assert table == {0: "done", 1: "a defect", **codes, stopping.Stopped.exit_code: "Stopped"}
    drawn = {int(code): name for name, code in re.findall(r"[├└]── (\w+) +(\d+)", errors.__doc__ or "")}
    assert drawn == codes


@pytest.mark.skipif(importlib.util.find_spec("pmagic.api") is None, reason="pmagic.api is not here yet")
def test_the_python_of_the_docs_uses_names_that_exist() -> None:
    blocks = [
        block for path in PROSE for block in re.findall(r"^```python\n(.*?)^```", read(path), re.MULTILINE | re.DOTALL)
    ]
    names = {name for block in blocks for name in re.findall(r"\bpmagic\.([a-z_]+)\(", block)}
    names |= set(re.findall(r"`pmagic\.([a-z_]+)\(", read(ROOT / "docs" / "python-api.md")))
    assert names >= {"learn", "render", "save", "load", "compose", "probe"}
    assert names | {"PmagicError"} <= set(pmagic.__all__)
    for block in blocks:
        compile(block, "a page", "exec")


def test_the_locked_versions_are_those_that_the_project_asks_for() -> None:
    lines = [line for line in read(ROOT / "constraints.txt").splitlines() if not line.startswith("#")]
    locked = dict(line.split("==") for line in lines)
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    for wanted in (*project["dependencies"], *extras["test"], *extras["world"]):
        name, floor = re.sub(r"\[.*\]", "", wanted.lower()).split(">=")
        version = locked.get(name) or locked.get(name.replace("-", "_"))
        assert version is not None, f"{name} is not in constraints.txt: run `make constraints`"
        parts = [int(part) for part in floor.split(".")]
        assert [int(part) for part in version.split(".")[: len(parts)]] >= parts, wanted
    assert f"torch=={locked['torch']}" in read(ROOT / "Makefile")


def test_one_version_everywhere() -> None:
    version = pmagic.__version__
    assert f"Version {version}" in read(ROOT / "README.md")
    assert f"\nversion: {version}\n" in read(ROOT / "CITATION.cff")
    assert f"\n## [{version}]" in read(ROOT / "CHANGELOG.md")
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    assert project["requires-python"] == ">=3.11" and project["urls"]["Paper"] in read(ROOT / "README.md")
