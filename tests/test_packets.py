"""No verb but `models pull` sends a packet or starts a program, with every native library in the process.

Seen from outside: by the system calls of the process, its threads and its children (strace), or by the kernel's own
counters in a network namespace (unshare), which also count what a program only tries to send. No hook in Python sees
native code.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from evaluated import face
from tiny import faced_folder, tiny_folders  # noqa: F401 - fixtures

ROOT = Path(__file__).parent.parent
Watch = Callable[[list[str], Path], list[str]]
EVERY_VERB = ROOT / "tests" / "every_verb.py"
# A socket of IP is enough: nothing here has a use for one. A program is whatever is executed after the first.
_SEEN = re.compile(r"socket\(AF_INET|\b(?:execve|execveat)\(")
_MARK = re.compile(r'sun_path=@"verb ([^"]*)"')


def run(words: list[str], folder: Path) -> None:
    """Runs a command that must succeed, as a person's own terminal would: without the switches that tests set."""
    left_out = ("HF_HUB_OFFLINE", "HF_HOME", "ORT_DISABLE_TELEMETRY", "RAY_ADDRESS")
    variables = {key: value for key, value in os.environ.items() if key not in left_out}
    variables |= {"PYTHONPATH": str(ROOT), "HOME": str(folder), "MPLCONFIGDIR": str(folder / "matplotlib")}
    done = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def traced(words: list[str], folder: Path) -> list[str]:
    """What the command did on the network or started, by strace: each line under the verb that was tried before it."""
    log, lines, verb = folder / "calls.txt", [], "the start"
    run(["strace", "-f", "-qq", "-s", "200", "-e", "trace=network,execve,execveat", "-o", str(log), *words], folder)
    for line in log.read_text(errors="replace").splitlines()[1:]:  # the first is the command itself
        if found := _MARK.search(line):
            verb = found[1]
        elif _SEEN.search(line) and not _is_python(line):
            lines.append(f"{verb}: {line}")
    return lines


def counted(words: list[str], folder: Path) -> list[str]:
    """What the command sent or tried to send over IP, by the counters of a network namespace that it has to itself."""
    counters = folder / "counters.txt"
    script = f'"$@" && cat /proc/net/snmp /proc/net/snmp6 > {counters}'
    run(["unshare", "--user", "--map-root-user", "--net", "sh", "-c", script, "sh", *words], folder)
    lines = counters.read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip: "))
    found = dict(zip(names, values, strict=True)) | dict(line.split() for line in lines if line.startswith("Ip6"))
    return [f"{name} {found[name]}" for name in ("OutRequests", "OutNoRoutes", "Ip6OutNoRoutes") if found[name] != "0"]


def _is_python(line: str) -> bool:
    """`eval --workers` starts this very Python, by its whole path."""
    return f'execve("{sys.executable}"' in line


def _no_namespaces() -> bool:
    words = ["unshare", "--user", "--map-root-user", "--net", "true"]
    return shutil.which("unshare") is None or subprocess.run(words, capture_output=True, check=False).returncode != 0


WATCHERS = [
    pytest.param(
        traced,
        marks=pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here: apt-get install strace"),
        id="strace",
    ),
    pytest.param(
        counted, marks=pytest.mark.skipif(_no_namespaces(), reason="no network namespaces here"), id="namespace"
    ),
]
LOOKS_UP = "import socket\ntry: socket.getaddrinfo('example.invalid', 80)\nexcept OSError: pass"
OPENS_A_MODEL = """
import sys, time, onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
time.sleep(6)
"""


# A cluster as `eval --workers ray` starts it. Ray's own questions come some seconds after its start.
USES_A_CLUSTER = """
import time, ray
from pmagic.evaluation import cluster
cluster._join()
assert ray.get(ray.remote(lambda: 3).remote()) == 3
time.sleep(8)
ray.shutdown()
"""
# A server with an HTTP client and a `render` that finds the server, all on this machine.
USES_A_SERVER = """
import base64, json, os, signal, subprocess, sys, time, urllib.request
options = ["--port", "0", "--json"]
server = subprocess.Popen([sys.executable, "-m", "pmagic", "serve", *options], stdout=subprocess.PIPE, text=True)
text = ""
while not text.endswith("}\\n"):
    text += server.stdout.readline()
about = json.loads(text)
head = {"authorization": "Bearer " + open(about["token_file"]).read(), "content-type": "application/json"}
body = json.dumps({"model": "alice", "prompt": "at sea", "steps": 1}).encode()
answer = urllib.request.urlopen(urllib.request.Request(about["url"] + "/images/generations", body, head))
assert base64.b64decode(json.load(answer)["data"][0]["b64_json"])[1:4] == b"PNG"
render = [sys.executable, "-m", "pmagic", "render", "alice", "at sea", "--steps", "1"]
told = subprocess.run(render, check=True, capture_output=True, text=True).stderr
assert told == "", told  # not a word of drawing it by itself
time.sleep(6)
server.send_signal(signal.SIGTERM)
assert server.wait() == 0
"""
_SENDS = re.compile(r"\bconnect\(\d+<TCP|\bsend(?:to|msg|mmsg)\(\d+<(?:UDP|TCP)")
_TO = re.compile(r"->\[?(?:::ffff:)?([\d.]+)\]?:|inet_addr\(\"([\d.]+)\"\)|AF_INET6, \"(?:::ffff:)?([^\"]+)\"")


@pytest.mark.parametrize("watched", WATCHERS)
def test_what_watches_sees_a_name_that_is_looked_up(watched: Watch, tmp_path: Path) -> None:
    assert watched([sys.executable, "-c", LOOKS_UP], tmp_path)


@pytest.mark.parametrize("watched", WATCHERS)
def test_onnxruntime_looks_nothing_up_once_pmagic_is_imported(
    watched: Watch,
    eval_folder: Path,
    tmp_path: Path,
) -> None:
    model = str(next(eval_folder.with_name("evaluated-judge").glob("*.onnx")))
    assert watched([sys.executable, "-c", f"import pmagic\n{OPENS_A_MODEL}", model], tmp_path) == []


def sent_away(words: list[str], folder: Path) -> list[str]:
    """Calls that send something to an address which is not this machine's, by strace. Connecting UDP sends nothing."""
    log = folder / "calls.txt"
    run(["strace", "-f", "-qq", "-yy", "-s", "200", "-e", "trace=network", "-o", str(log), *words], folder)
    lines = [line for line in log.read_text(errors="replace").splitlines() if _SENDS.search(line)]
    own = own_addresses()
    return [line for line in lines if {each for found in _TO.findall(line) for each in found if each} - own]


def own_addresses() -> set[str]:
    """IPv4 addresses of this machine, as the kernel routes: what goes to them stays here."""
    return set(re.findall(r"\|-- ([\d.]+)\n\s+/32 host LOCAL", Path("/proc/net/fib_trie").read_text()))


def test_what_is_sent_away_is_seen(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not here: apt-get install strace")
    here = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    assert sent_away([sys.executable, "-c", here], tmp_path) == []
    away = "import socket; s = socket.socket(); s.settimeout(0.1); s.connect_ex(('203.0.113.1', 80))"
    assert sent_away([sys.executable, "-c", away], tmp_path)
    away = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('203.0.113.1', 9))"
    assert sent_away([sys.executable, "-c", away], tmp_path) == []
    assert sent_away([sys.executable, "-c", f"{away}; s.send(b'x')"], tmp_path)


def test_a_cluster_on_this_machine_sends_nothing_away(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    if shutil.which("strace") is None:
        pytest.skip("strace is not here: apt-get install strace")
    assert sent_away([sys.executable, "-c", USES_A_CLUSTER], tmp_path) == []


def test_a_server_and_its_clients_send_nothing_away(home: Path, eval_folder: Path, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not here: apt-get install strace")
    face(5, 5).save(tmp_path / "photo.png")
    learn = ["learn", str(tmp_path / "photo.png"), "--name", "alice", "--base", str(eval_folder)]
    run([sys.executable, "-m", "pmagic", *learn, "--iterations", "2", "--recipe", "reference"], tmp_path)
    with tempfile.TemporaryDirectory(prefix="pm") as runtime, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        assert sent_away([sys.executable, "-c", USES_A_SERVER], tmp_path) == []


@pytest.mark.parametrize("watched", WATCHERS[:1] if shutil.which("strace") else WATCHERS)
def test_no_verb_sends_a_packet_or_starts_a_program(
    watched: Watch,
    home: Path,
    eval_folder: Path,
    people: Path,
    prompts_file: Path,
    tmp_path: Path,
) -> None:
    face(5, 5).save(tmp_path / "photo.png")
    words = [str(eval_folder), str(tmp_path / "photo.png"), str(people), str(prompts_file)]
    assert watched([sys.executable, str(EVERY_VERB), *words], tmp_path) == []
    assert list((tmp_path / "matplotlib").glob("*")) == []  # and its fonts' list is not kept for other programs
    assert (home / "library" / "alice").is_dir()
