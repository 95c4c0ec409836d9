"""Random kills of the real learn, import and export: nothing visible is ever damaged, the next command works, and
once the name is removed, no copy is left.

    python -m tests.kills 300        (some minutes; a tiny random base is learned on)

Each round starts a process, kills it (SIGKILL) at a random moment, checks everything that is visible, and runs the
same command to its end: for `learn` with --resume, and the weights must equal those of an uninterrupted run.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tiny

from pmagic.cli.app import app
from pmagic.library import archive, bundle, unfinished
from pmagic.library.naming import folder_of
from pmagic.library.store import Library

Words = list[str]


def kill_some(count: int, folder: Path, seed: int = 0, say: Callable[[str], object] = print) -> dict[str, int]:
    """How many of each kind were killed before their end. Raises AssertionError for anything that is lost."""
    os.environ["PMAGIC_HOME"] = str(folder / "home")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.chdir(folder)
    library = Library(folder / "home" / "library")
    tiny.photo(3).save("photo.png")
    base = tiny.build_base(folder / "base")
    learn = ["learn", "photo.png", "--base", str(base), "--recipe", "reference", "--iterations", "60", "--name"]
    assert in_process([*learn, "whole"]) == 0
    assert in_process(["export", "whole", "whole.pmagic"]) == 0
    weights = _weights(library, "whole")
    dice = random.Random(seed)
    seconds = {
        kind: _timed(words)
        for kind, words in {
            "learn": [*learn, "timed"],
            "import": ["import", "whole.pmagic", "--as", "timed2"],
            "export": ["export", "whole", "timed.pmagic"],
        }.items()
    }
    before = _seen(library)
    killed = dict.fromkeys(seconds, 0)
    for number in range(count):
        kind = dice.choice(list(seconds))
        name = f"{kind}{number}"
        words = {
            "learn": [*learn, name],
            "import": ["import", "whole.pmagic", "--as", name],
            "export": ["export", "whole", f"{name}.pmagic"],
        }[kind]
        if in_process(words, kill_after=dice.uniform(0, 1.1 * seconds[kind])) == -signal.SIGKILL:
            killed[kind] += 1
        after = _seen(library)
        assert all(after.get(path) == data for path, data in before.items()), f"{name}: a persona was changed or lost"
        hidden = [path.name for path in Path().iterdir() if path.name[0] == "."]
        assert hidden == [], f"{name}: {hidden} are left of an export"
        if kind == "export":
            if Path(f"{name}.pmagic").exists():
                assert Path(f"{name}.pmagic").read_bytes() == Path("whole.pmagic").read_bytes(), name
            assert in_process(words) == 0
        elif not library.versions(name):
            go_on = kind == "learn" and name in unfinished.resumable_names(library.root)
            assert in_process(["learn", "--resume", "--name", name] if go_on else words) == 0, name
        if kind != "export":
            assert _weights(library, name) == weights, f"{name}: other weights"
            assert in_process(["rm", name]) == 0
            assert not library.has_leftovers(), f"{name}: a copy is left after its removal"
        assert _seen(library) == before and unfinished.names(library.root) == [], name
        if (number + 1) % 10 == 0:
            say(f"{number + 1} of {count}: killed {killed}")
    return killed


def in_process(words: Words, kill_after: float | None = None) -> int:
    """Runs pmagic in a process of its own, which has imported everything; its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        code = 1
        try:
            app(words)
        except SystemExit as done:
            code = int(done.code or 0)
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _timed(words: Words) -> float:
    start = time.monotonic()
    assert in_process(words) == 0
    return time.monotonic() - start


def _weights(library: Library, name: str) -> bytes:
    return (folder_of(library.root, library.find(name)) / bundle.TENSORS).read_bytes()


def _seen(library: Library) -> dict[Path, bytes]:
    """Every file of every visible persona, each of which verifies."""
    found = {}
    for address in library.addresses():
        library.verify(str(address))
        folder = folder_of(library.root, address)
        found |= {path: path.read_bytes() for path in folder.iterdir()}
    for path in Path().glob("*.pmagic"):
        bundle.unpack(archive.unpack(path))
    return found


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    with tempfile.TemporaryDirectory(prefix="pmagic-kills-") as place:
        print("killed before the end:", kill_some(int(sys.argv[1]) if len(sys.argv) > 1 else 300, Path(place)))
