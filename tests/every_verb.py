"""Runs every command but those in WITHOUT in one process with all native libraries, to be observed from outside.

python -m tests.every_verb BASE PHOTO PEOPLE PROMPTS        (in an empty folder, with PMAGIC_HOME)
"""

import os
import socket
import sys
import time

from pmagic.cli.app import app, main

SECONDS = 6  # onnxruntime's telemetry looks up its host some seconds after a model is opened
NATIVE = (
    "cv2",
    "insightface",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "PIL",
    "safetensors",
    "tokenizers",
    "torch",
)
# `models pull` may use the network. `demo` is `sample`, `learn` and `render` one after the other, for minutes.
# `study serve` listens until it is stopped (test_study_server.py).
# `serve` listens on loopback until it is stopped: test_packets watches it with its clients.
WITHOUT = {("models", "pull"), ("demo",), ("study", "serve"), ("serve",)}


def commands(base: str, photo: str, people: str, prompts: str) -> list[list[str]]:
    fast = ["--base", base, "--iterations", "2"]
    drawn = ["--steps", "2", "--seed", "1"]
    return [
        ["config", "set", "base", base], ["config", "get", "base"], ["config", "path"],
        ["config", "list"], ["config", "unset", "base"], ["sample"], ["setup", "--for", "photos", "--dry-run"],
        ["config", "set", "base", "mini"],
        ["methods"], ["models", "list"], ["models", "path", "mini"], ["models", "rm", "owner/model"],
        ["learn", photo, "--name", "alice", *fast, "--recipe", "paper"],
        ["learn", photo, "--name", "bob", *fast, "--recipe", "reference", "--stages", "300:700"],
        ["probe", photo, "--base", base, "--out", "plots"],
        ["render", "alice", "as a cowboy", *drawn, "--out", "out"],
        ["compose", "{alice} at sea", "--background", photo, "--box", "0,0,32,32", *drawn, "--out", "c.png"],
        ["eval", "--dataset", "folder", "--root", people, "--base", base, "--people", "2", "-n", "1",
         "--prompts", prompts, "--recipe", "paper,reference", "--out", "eval", "--workers", "2"],
        ["study", "make", "eval", "--root", people, "--questions", "2", "--checks", "0"],
        ["study", "score", "study"],
        ["list"], ["show", "alice"], ["verify", "--all"], ["path"], ["info", "c.png"], ["gallery"],
        ["export", "alice"], ["cp", "alice", "carl"], ["mv", "carl", "dora"], ["rm", "dora"],
        ["import", "alice.pmagic", "--as", "emil"], ["doctor"], ["shell"],
    ]  # fmt: skip


def registered() -> set[tuple[str, ...]]:
    """Every command of the program, except those in WITHOUT."""
    plain = {(each.name,) for each in app.registered_commands}
    grouped = {
        (group.name, each.name) for group in app.registered_groups for each in group.typer_instance.registered_commands
    }
    return (plain | grouped) - WITHOUT


def run(words: list[str]) -> int:
    sys.argv = ["pmagic", *words]
    try:
        main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def mark(text: str) -> None:
    """Marks the next command in the trace, by connecting to a local socket that does not exist."""
    with socket.socket(socket.AF_UNIX) as local:
        local.connect_ex(f"\0verb {text}")


if __name__ == "__main__":
    every = commands(*sys.argv[1:])
    groups = {group.name for group in app.registered_groups}
    tried = {tuple(words[: 1 + (words[0] in groups)]) for words in every}
    assert tried == registered(), tried ^ registered()
    for each in every:
        mark(" ".join(each[:2]))
        print(*each[:2], run(each), flush=True)
    mark("the end")
    time.sleep(SECONDS)
    missing = [name for name in NATIVE if name not in sys.modules]
    assert not missing, missing
    print("all native libraries were there", os.environ.get("ORT_DISABLE_TELEMETRY"))
