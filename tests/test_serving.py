"""`pmagic serve` as other programs meet it: the real `openai` client, hostile requests, kills, and a load."""

# ruff: noqa: F811 - the arguments of a test have the names of its fixtures

import base64
import io
import json
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import adapter_samples
import openai
import pytest
import tiny
from PIL import Image
from served import Server, at_home, loopback, serving, shared_home, shared_server, wait_for  # noqa: F401 - fixtures
from tiny import tiny_folders  # noqa: F401 - a fixture
from typer.testing import CliRunner, Result

from pmagic import pictures, settings
from pmagic.bases import loading
from pmagic.cli.app import app
from pmagic.library.store import Library
from pmagic.serving import access, socket_file

runner = CliRunner()
pytestmark = pytest.mark.usefixtures("at_home")
LONG = {"steps": 200, "seed": 1}


def generate(client: openai.OpenAI, model: str = "alice", prompt: str = "as a cowboy", **fields: Any) -> Any:
    own = {name: fields.pop(name) for name in ("seed", "steps", "guidance", "negative", "scheduler") if name in fields}
    return client.images.generate(model=model, prompt=prompt, extra_body={"steps": 2, **own}, **fields)


def files_of(answer: Any) -> list[bytes]:
    return [base64.b64decode(each.b64_json) for each in answer.data]


def render(*words: str, out: Path) -> Result:
    return runner.invoke(app, ["render", *words, "--steps", "2", "--out", str(out)])


def ask(
    server: Server, body: bytes, *, token: str | None = None, path: str = "/v1/images/generations"
) -> tuple[int, dict]:
    """The status and the JSON of a request that no client library would send."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token or server.token}\r\n"
    return send(server, f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)


def send(server: Server, data: bytes) -> tuple[int, dict]:
    port = int(server.url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def state(server: Server) -> dict[str, Any]:
    head = f"GET /v1/queue HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.token}\r\nconnection: close\r\n\r\n"
    return send(server, head.encode())[1]


def test_the_openai_client_draws_the_very_file_that_render_writes(
    shared_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # so that render finds no server
    done = render("alice", "as a cowboy", "-n", "2", "--seed", "7", out=tmp_path)
    written = [Path(each).read_bytes() for each in done.stdout.split()]
    answer = generate(shared_server.client(), n=2, size="auto", seed=7, response_format="b64_json")
    assert files_of(answer) == written
    assert [each.seed for each in answer.data] == [7, 8]
    assert answer.data[0].revised_prompt == "a photo of <alice> as a cowboy"
    by_version = generate(shared_server.client(), model="alice@1", size="32x32", seed=8, quality="hd")
    alone = render("alice", "as a cowboy", "--seed", "8", out=tmp_path)
    assert files_of(by_version) == [Path(alone.stdout.strip()).read_bytes()]


def test_size_and_format_are_as_asked_and_without_a_seed_each_picture_is_another(
    shared_server: Server, tmp_path: Path
) -> None:
    client = shared_server.client()
    answer = generate(client, size="48x40", output_format="webp", negative="snow", guidance=3.5, scheduler="euler")
    (tmp_path / "x.webp").write_bytes(files_of(answer)[0])
    story = pictures.read_metadata(tmp_path / "x.webp")
    assert Image.open(io.BytesIO(files_of(answer)[0])).size == (48, 40)
    assert [story[key] for key in ("format", "negative", "guidance", "scheduler")] == ["webp", "snow", 3.5, "euler"]
    assert generate(client).data[0].seed != generate(client).data[0].seed


def test_models_are_the_personas(shared_server: Server) -> None:
    client = shared_server.client()
    assert [each.id for each in client.models.list()] == ["alice", "alice@1", "bob", "bob@1"]
    assert client.models.retrieve("bob").owned_by == "pmagic"
    with pytest.raises(openai.NotFoundError, match="there is no persona 'carl'"):
        client.models.retrieve("carl")


def test_two_at_once_get_what_each_gets_alone(shared_server: Server) -> None:
    asked = [("alice", 1), ("bob", 1), ("alice", 2), ("bob", 2)]

    def draw(who: tuple[str, int]) -> bytes:
        return files_of(generate(shared_server.client(), model=who[0], seed=who[1], steps=8))[0]

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(draw, asked))
    assert both == [draw(each) for each in asked] and len(set(both)) == 4


def test_what_cannot_be_drawn_is_an_error_of_the_clients_own_kind(shared_server: Server) -> None:
    client = shared_server.client()
    with pytest.raises(openai.NotFoundError) as missing:
        generate(client, model="carl")
    assert missing.value.code == "model_not_found" and "there is: alice, bob" in missing.value.message
    with pytest.raises(openai.BadRequestError, match="the prompt names <bob>, but alice is drawn"):
        generate(client, prompt="<bob> at sea")
    with pytest.raises(openai.BadRequestError, match="there is no scheduler 'fast'"):
        generate(client, scheduler="fast")
    with pytest.raises(openai.BadRequestError, match="response_format must be b64_json"):
        generate(client, response_format="url")
    with pytest.raises(openai.AuthenticationError) as stranger:
        openai.OpenAI(base_url=shared_server.url, api_key="pmagic-wrong", max_retries=0).models.list()
    assert stranger.value.code == "invalid_api_key" and stranger.value.response.headers["www-authenticate"] == "Bearer"


BODY = {"model": "alice", "prompt": "x", "steps": 1}
HOSTILE = [
    ({"model": "../../../etc/passwd"}, 400, "cannot be a persona's name"),
    ({"model": "alice/../bob"}, 400, "cannot be a persona's name"),
    ({"model": "alice@-1"}, 400, "does not address a version"),
    ({"model": "\ud800"}, 400, "cannot be a persona's name"),
    ({"model": 3}, 400, "model must be str"),
    ({"model": None}, 400, "model is missing"),
    ({"prompt": "x" * 4001}, 400, "prompt is longer than 4000 characters"),
    ({"prompt": "\ud800"}, 400, "the prompt is not valid text"),
    ({"prompt": "a\0b"}, 400, "control character U+0000"),
    ({"prompt": ["x"]}, 400, "prompt must be str"),
    ({"n": 11}, 400, "n must be 1 to 10"),
    ({"n": True}, 400, "n must be int"),
    ({"n": 10**30}, 400, "n must be 1 to 10"),
    ({"size": "99999x99999"}, 400, "size must be auto, or WIDTHxHEIGHT"),
    ({"size": "4096x4096"}, 400, "size must have sides of 8 to 2048 pixels"),
    ({"size": "0x0"}, 400, "size must have sides"),
    ({"size": "33x32"}, 400, "multiples of 8"),
    ({"size": "1x1; rm -rf /"}, 400, "size must be auto"),
    ({"seed": -1}, 400, "seed must be 0 or more"),
    ({"seed": 2**32}, 400, "seed must be 0 or more"),
    ({"steps": 10**9}, 400, "steps must be 1 to 200"),
    ({"guidance": float("nan")}, 400, "the guidance must be 0 or above"),
    ({"guidance": "8"}, 400, "guidance must be int or float"),
    ({"base": "/etc"}, 400, "there is no field 'base'"),
    ({"\ud800": 1}, 400, "there is no field"),
    ({"stream": True}, 400, "stream is not supported"),
]


def test_hostile_bodies_get_one_clear_answer_each(shared_server: Server) -> None:
    for fields, status, message in HOSTILE:
        code, answer = ask(shared_server, json.dumps({**BODY, **fields}).encode())
        assert (code, message in answer["error"]["message"]) == (status, True), (fields, code, answer)
        assert set(answer["error"]) == {"message", "type", "param", "code"}
    for body, status, message in [
        (b"", 400, "not valid JSON"), (b"{", 400, "not valid JSON"), (b"[]", 400, "must be a JSON object"),
        (b"[" * 60_000, 400, "not valid JSON"), (b"\xff\xfe", 400, "not valid JSON"),
        (b'{"n": 1' + b"0" * 10_000 + b"}", 400, "not valid JSON"), (b" " * 70_000, 413, "larger than 65536 bytes"),
    ]:  # fmt: skip
        code, answer = ask(shared_server, body)
        assert (code, message in answer["error"]["message"]) == (status, True), (body[:20], code, answer)
    assert files_of(generate(shared_server.client()))  # and it still draws


def test_hostile_heads_are_refused_before_a_body_is_read(shared_server: Server) -> None:
    path = "POST /v1/images/generations HTTP/1.1\r\nhost: x\r\n"
    right = f"authorization: Bearer {shared_server.token}\r\n"
    huge = send(shared_server, f"{path}{right}content-length: 999999999999\r\nconnection: close\r\n\r\n".encode())
    assert huge[0] == 413
    for wrong in ("", "authorization: Bearer \r\n", "authorization: Basic x\r\n", right[:-3] + "\r\n", right + right):
        code, answer = send(shared_server, f"{path}{wrong}content-length: 10\r\nconnection: close\r\n\r\n".encode())
        assert (code, answer["error"]["code"]) == (401, "invalid_api_key"), wrong
    for place, status in (("/render", 404), ("/v1/../../etc/passwd", 404), ("/v1/models/../../x", 404)):
        assert ask(shared_server, b"{}", path=place)[0] in (status, 405), place
        assert ask(shared_server, b"{}", path=place, token="x")[0] == 401, place
    part = (
        f"{path}{right}transfer-encoding: chunked\r\nconnection: close\r\n\r\n".encode()
        + b"8000\r\n"
        + b" " * 0x8000
        + b"\r\n"
    )
    assert send(shared_server, part + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 2)[0] == 413


def test_a_client_that_leaves_cancels_its_drawing(shared_server: Server) -> None:
    body = json.dumps({**BODY, **LONG, "n": 10, "size": "256x256"}).encode()
    port = int(shared_server.url.split(":")[2].split("/")[0])
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {shared_server.token}\r\n"
    for _ in range(2):  # one that is drawn and one that waits
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: state(shared_server)["running"])
        connection.close()
    wait_for(lambda: not state(shared_server)["running"] and not state(shared_server)["waiting"])
    assert shared_server.lines()[-1] == "alice@1: cancelled, nobody waits for it"


def test_the_queue_is_seen_as_it_moves(shared_server: Server) -> None:
    port = int(shared_server.url.split(":")[2].split("/")[0])
    head = f"GET /v1/queue HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {shared_server.token}\r\n"
    drawing = threading.Thread(target=generate, args=(shared_server.client(),), kwargs={"steps": 50, "n": 2})
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"{head}accept: text/event-stream\r\n\r\n".encode())
        drawing.start()
        text, seen = b"", []
        while not seen or seen[-1]["running"] or not any(each["running"] for each in seen):
            text += connection.recv(65536)
            seen = [
                json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: ") and line[-1:] == b"}"
            ]
    drawing.join()
    running = [each["running"][0] for each in seen if each["running"]]
    assert {each["model"] for each in running} == {"alice@1"} and {each["n"] for each in running} == {2}
    done = [each["done"] for each in running if "done" in each]
    assert done == sorted(done) and done[-1] > 0 and "cowboy" not in text.decode()


def test_render_lets_the_server_draw_to_the_same_bytes(
    shared_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["alice", "a {} in snow ((night))", "-n", "3", "--seed", "4", "--grid", "--json"]
    with monkeypatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        here = render(*words, out=tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "here")
    monkeypatch.setattr(loading, "load", lambda *words, **options: pytest.fail("the base was opened here"))
    there = render(*words, out=tmp_path / "out")
    assert (here.exit_code, there.exit_code) == (0, 0), there.stderr
    assert there.stdout == here.stdout and there.stderr == here.stderr
    for each in (tmp_path / "here").iterdir():
        assert each.read_bytes() == (tmp_path / "out" / each.name).read_bytes()
    wrong = render("alice", "<bob> in snow", out=tmp_path)
    assert wrong.exit_code == 2 and "the prompt names <bob>" in wrong.stderr
    code = f"import sys; sys.argv = ['pmagic', 'render', 'alice', 'x', '--steps', '1', '--out', {str(tmp_path)!r}]\n"
    code += "from pmagic.cli.app import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"  # a warm drawing does not even import torch


def test_what_the_server_would_draw_otherwise_is_drawn_here_and_said(
    shared_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        ({"OMP_NUM_THREADS": "3"}, [], "OMP_NUM_THREADS differs from the server's (3 here, "),
        ({}, ["--dtype", "float64"], "the server draws with --dtype auto, and this command with float64"),
        ({}, ["--device", "cpu"], "the server draws on auto, and this command on cpu"),
    ]
    for variables, options, reason in cases:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            before = len(shared_server.lines())
            done = render("alice", "x", *options, out=tmp_path)
            assert done.exit_code == 0
            assert f"drawing here and not in the server that is running: {reason}" in done.stderr
            assert len(shared_server.lines()) == before


def test_an_adapter_is_drawn_with_here_and_that_is_said(
    shared_server: Server, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny.open_base(tiny_folders["sd1"])
    path = adapter_samples.build_ip_adapter(tmp_path / "adapter", base.pipeline.unet)
    tiny.photo(1).save(tmp_path / "look.png")
    done = render("alice", "x", "--with", str(path), "--look", str(tmp_path / "look.png"), out=tmp_path)
    assert done.exit_code == 0, done.stderr
    assert "drawing here and not in the server that is running: a server draws without adapters" in done.stderr


def test_a_persona_of_the_same_number_that_is_another_one_is_drawn_as_what_it_is(
    shared_server: Server, tmp_path: Path
) -> None:
    library = Library(settings.library_dir())
    _, alice = library.load("alice")
    _, bob = library.load("bob")
    library.save("carl", alice)
    as_alice = files_of(generate(shared_server.client(), model="carl@1", seed=1))
    library.remove("carl")
    library.save("carl", bob)
    as_bob = files_of(generate(shared_server.client(), model="carl@1", seed=1))
    library.remove("carl")
    with pytest.raises(openai.NotFoundError):
        generate(shared_server.client(), model="carl@1", seed=1)
    assert as_alice != as_bob


def test_one_server_for_a_library_and_everything_of_it_is_private(shared_server: Server) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "pmagic", "serve", "--port", "0"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 9 and "a server of this library is running already" in again.stderr
    assert stat.S_IMODE(shared_server.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(shared_server.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(access.token_file().stat().st_mode) == 0o600
    assert shared_server.token not in "".join(shared_server.lines())  # its log is no terminal


def test_killed_and_started_again(shared_home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = shutil.copytree(shared_home["PMAGIC_HOME"], tmp_path / "copy")  # another library has another socket
    monkeypatch.setenv("PMAGIC_HOME", str(home))
    with serving(tmp_path / "first") as server:
        with ThreadPoolExecutor(2) as pool:
            asked = pool.submit(generate, server.client(), n=10, **LONG)
            words = ["alice", "x", "-n", "50", "--out", str(tmp_path / "out")]
            command = [sys.executable, "-m", "pmagic", "render", *words, "--steps", "20"]
            wait_for(lambda: state(server)["running"])
            drawing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            wait_for(lambda: state(server)["waiting"])
            server.process.kill()
            with pytest.raises(openai.APIConnectionError):
                asked.result(30)
            stderr = drawing.communicate(timeout=60)[1]
        assert drawing.returncode == 12
        assert stderr.startswith("error: the server ended or stopped answering") and "Traceback" not in stderr
        assert server.socket.exists()  # left behind
        token = server.token
    assert render("alice", "x", out=tmp_path / "alone").exit_code == 0  # nobody listens: drawn here
    with serving(tmp_path / "second") as server:
        assert server.token == token and server.socket.exists()
        assert files_of(generate(server.client()))
        waiting = threading.Thread(target=_fails_with_503, args=(server,))
        waiting.start()
        wait_for(lambda: state(server)["running"])
        assert server.stop(signal.SIGINT) == 0
        waiting.join()
        assert not server.socket.exists() and "Traceback" not in "".join(server.lines())


def _fails_with_503(server: Server) -> None:
    with pytest.raises(openai.InternalServerError, match="the server was stopped") as stopped:
        generate(server.client(), n=10, **LONG)
    assert stopped.value.status_code == 503


def test_ctrl_c_of_render_cancels_the_drawing_in_the_server(shared_server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pmagic", "render", "alice", "x", "-n", "500", "--out", str(tmp_path)]
    drawing = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(list(tmp_path.glob("*.png"))) >= 2)
    drawing.send_signal(signal.SIGINT)
    stderr = drawing.communicate(timeout=60)[1]
    assert drawing.returncode == 130 and "of 500 pictures" in stderr and "--seed" in stderr
    wait_for(lambda: not state(shared_server)["running"])
    assert shared_server.lines()[-1] == "alice@1: cancelled, nobody waits for it"


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    token, is_new = access.load_token(tmp_path / "state" / "token")
    assert is_new and access.load_token(tmp_path / "state" / "token") == (token, False) and len(token) == 50
    (tmp_path / "state" / "token").chmod(0o640)
    with pytest.raises(access.UsageError, match="others than you can read or change the token file"):
        access.load_token(tmp_path / "state" / "token")
    (tmp_path / "state" / "link").symlink_to(tmp_path / "state" / "token")
    with pytest.raises(access.UsageError, match="cannot be read"):
        access.load_token(tmp_path / "state" / "link")


def test_a_folder_that_others_can_write_holds_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "pmagic"
    own.mkdir(mode=0o700)
    assert socket_file.is_private(own)
    own.chmod(0o770)
    assert not socket_file.is_private(own)
    own.chmod(0o700)
    tmp_path.chmod(0o777)
    assert not socket_file.is_private(own)
    tmp_path.chmod(0o1777)
    assert socket_file.is_private(own)


def test_without_the_extra_one_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("pmagic.serving.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = runner.invoke(app, ["serve"])
    assert done.exit_code == 2
    assert "needs uvicorn, which is not installed" in done.stderr and "pip install starlette uvicorn" in done.stderr


@pytest.mark.slow
def test_two_hundred_requests_under_load_lose_and_leak_nothing(shared_server: Server) -> None:
    client = shared_server.client(max_retries=1000)
    expected = {
        (who, seed): files_of(generate(client, model=who, seed=seed))[0] for who in ("alice", "bob") for seed in (1, 2)
    }

    def draw(number: int) -> bool:
        who, seed = ("alice", "bob")[number % 2], 1 + number // 2 % 2
        return files_of(generate(client, model=who, seed=seed)) == [expected[who, seed]]

    with ThreadPoolExecutor(40) as pool:  # more than may wait: the client tries again when it gets 429
        assert all(pool.map(draw, range(100)))
        memory, files = shared_server.memory(), shared_server.open_files()
        start = time.monotonic()
        assert all(pool.map(draw, range(100, 300)))
    seconds, after = time.monotonic() - start, shared_server.memory()
    print(f"200 requests in {seconds:.1f} s, memory {memory / 1e6:.0f} -> {after / 1e6:.0f} MB")
    assert state(shared_server)["running"] == state(shared_server)["waiting"] == []
    assert after - memory < 30e6
    assert shared_server.open_files() <= files
