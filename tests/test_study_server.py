"""The server of a study: who may ask for what, and that an answer it has acknowledged is on the disk."""

import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import studied
from studied import loopback  # noqa: F401 - a fixture

from pmagic.errors import Busy, NotFound, StorageFailed, UsageError
from pmagic.study import answers, folder, server
from pmagic.study.folder import Study

pytestmark = pytest.mark.usefixtures("loopback")
JSON = {"Content-Type": "application/json"}


class Running:
    """A server in this process, and a client of it."""

    def __init__(self, place: Path, study: Study, running: server.Server, warnings: list[str]) -> None:
        self.place, self.study, self.server, self.warnings = place, study, running, warnings

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        found = reply.status, dict(reply.getheaders()), reply.read()
        connection.close()
        return found

    @property
    def cookie(self) -> str:
        _, headers, _ = self.ask("GET", f"/?token={self.server.token}")
        return headers["Set-Cookie"].partition(";")[0]

    def send(self, who: object, choices: object, **changes: object) -> int:
        body = json.dumps({"study": self.study.id, "participant": who, "choices": choices, **changes}).encode()
        return self.ask("POST", "/answers", body, Content_Type="application/json", Cookie=self.cookie)[0]

    def lines(self, who: str) -> list[dict[str, object]]:
        path = self.place / folder.ANSWERS / f"{who}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


def choice(n: int, question: str = "q01", chosen: str | None = "a") -> dict[str, object]:
    return {"n": n, "question": question, "chosen": chosen, "left": "a", "seconds": 1.5}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    place, study = studied.make(tmp_path)
    warnings: list[str] = []
    with server.open_server(place, "127.0.0.1", 0, warnings.append) as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Running(place, study, opened, warnings)
        opened.shutdown()
        thread.join()
    assert warnings == []


def test_the_token_opens_the_page_and_the_cookie_keeps_it_open(running: Running) -> None:
    status, headers, _ = running.ask("GET", f"/?token={running.server.token}")
    assert status == 303 and headers["Location"] == "/"
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and running.server.token not in cookie
    status, headers, body = running.ask("GET", "/", Cookie=running.cookie)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store" and "Python" not in str(headers)
    assert b"connect-src 'self'" in body and b'data-answers="answers"' in body
    assert len(body) == len(folder.page_path(running.place).read_bytes()) + len("answers")


def test_without_the_token_there_is_nothing(running: Running) -> None:
    wrong = running.server.token[:-1] + ("A" if running.server.token[-1] != "A" else "B")
    name = running.server.cookie
    for path, headers in (
        ("/", {}), (f"/?token={wrong}", {}), ("/?token=", {}), ("/?token=%FF%00", {}),
        ("/", {"Cookie": f"{name}={wrong}"}), ("/", {"Cookie": f"{name}={running.server.token}"}),
        ("/", {"Cookie": "\x01;;=;"}), ("/", {"Cookie": f"{name}=é"}),
        ("/answers", {}), ("/study.json", {}), (f"/answers?token={running.server.token}", {}),
    ):  # fmt: skip
        status, _, body = running.ask(
            "GET", path, **{key: value.encode().decode("latin-1") for key, value in headers.items()}
        )
        assert status == 403 and running.study.id.encode() not in body and len(body) < 100, (path, headers)
    body = json.dumps({"study": running.study.id, "participant": "p1", "choices": [choice(1)]}).encode()
    assert running.ask("POST", "/answers", body, **{"Content_Type": "application/json"})[0] == 403
    assert list((running.place / folder.ANSWERS).iterdir()) == []


@pytest.mark.parametrize(
    "path",
    ["/study.json", "/../study.json", "/page/../study.json", "/%2e%2e/study.json", "/answers", "/answers/p1.jsonl",
     "/access-token", "//etc/passwd", "/page/index.html", "/index.html", "http://other/study.json", "/?token=x/../y"],
)  # fmt: skip
def test_nothing_else_can_be_read(running: Running, path: str) -> None:
    assert running.send("p1", [choice(1)]) == 200
    status, _, body = running.ask("GET", path, Cookie=running.cookie)
    assert status == (200 if path.startswith("/?") else 404)
    assert b"textual_inversion" not in body and b'participant"' not in body


def test_methods_that_it_does_not_know_are_refused(running: Running) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE", "HEAD"):
        assert running.ask(method, "/answers", Cookie=running.cookie)[0] == 501


def test_a_choice_is_a_line_and_a_repeated_one_changes_nothing(running: Running) -> None:
    assert running.send("p1", [choice(1), choice(2, "q02", "b")]) == 200
    assert running.send("p1", [choice(2, "q02", "b"), choice(3, "q02", None)]) == 200
    assert running.send("p2", [choice(1, "q03")]) == 200
    assert [each["n"] for each in running.lines("p1")] == [1, 2, 2, 3]
    path = running.place / folder.ANSWERS / "p1.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    found, problems = answers.read(sorted(path.parent.iterdir()), running.study)
    assert [each.answers for each in found] == [{"q01": "a"}, {"q03": "a"}] and problems == []


def test_what_is_no_choice_is_refused_and_written_nowhere(running: Running) -> None:
    cookie = running.cookie
    for who in ("../p", "P", "p" * 41, "", 3, None):
        assert running.send(who, [choice(1)]) == 400, who
    for choices in ([], [{}], [choice(1, "q99")], None, "x", [choice(10**6)]):
        assert running.send("p1", choices) == 400, choices
    assert running.send("p1", [choice(1)], study="x") == 400
    good = json.dumps({"study": running.study.id, "participant": "p1", "choices": [choice(1)]}).encode()
    for body, headers, status in (
        (b"[" * 100_000, JSON, 400), (b"\xff", JSON, 400), (b"", JSON, 400), (good[:-5], JSON, 400),
        (good, {"Content-Type": "text/plain"}, 415), (good, {"Content-Type": "multipart/form-data"}, 415),
        (good + b" " * server.MAX_BODY, JSON, 413), (good, {**JSON, "Content-Length": "-1"}, 413),
        (good, {**JSON, "Content-Length": "1" * 4000}, 413),
    ):  # fmt: skip
        found = running.ask("POST", "/answers", body, **{**headers, "Cookie": cookie})
        assert found[0] == status, (body[:20], headers)
    assert list((running.place / folder.ANSWERS).iterdir()) == []


def test_many_participants_at_once(running: Running) -> None:
    def session(number: int) -> None:
        for n in range(1, 9):
            assert running.send(f"p{number}", [choice(n, f"q{n:02d}")]) == 200

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(session, range(12)))
    for number in range(12):
        assert [each["n"] for each in running.lines(f"p{number}")] == list(range(1, 9))


def test_one_participant_in_many_requests_at_once(running: Running) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda n: running.send("p1", [choice(n)]), range(1, 33))) == {200}
    assert sorted(each["n"] for each in running.lines("p1")) == list(range(1, 33))


def test_it_is_on_the_disk_before_it_is_acknowledged(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reply comes after a flush of the file and, the first time, of its entry in the folder."""
    flushed: list[str] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert running.send("p1", [choice(1)]) == 200
    assert flushed == ["p1.jsonl", "answers"]
    assert running.send("p1", [choice(2)]) == 200
    assert flushed == ["p1.jsonl", "answers", "p1.jsonl"]


def test_an_answer_that_cannot_be_written_is_not_acknowledged(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert running.send("p1", [choice(1)]) == 507
    assert running.send("p1", [choice(1)]) == 200
    assert running.warnings == [
        "answers cannot be written, and wait in the participant's browser: No space left on device"
    ]
    running.warnings.clear()


def test_a_line_that_was_cut_off_does_not_spoil_the_next(running: Running) -> None:
    path = running.place / folder.ANSWERS / "p1.jsonl"
    path.write_text('{"study": "' + running.study.id)
    assert running.send("p1", [choice(1)]) == 200
    (who,), problems = answers.read([path], running.study)
    assert who.answers == {"q01": "a"} and len(problems) == 1 and "line 1" in problems[0]


def test_it_does_not_follow_a_link_in_the_place_of_answers(running: Running, tmp_path: Path) -> None:
    (running.place / folder.ANSWERS / "p1.jsonl").symlink_to(tmp_path / "elsewhere")
    assert running.send("p1", [choice(1)]) == 507
    assert not (tmp_path / "elsewhere").exists()
    running.warnings.clear()


def test_nobody_can_fill_the_disk(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_PARTICIPANTS", 2)
    assert [running.send(f"p{number}", [choice(1)]) for number in range(3)] == [200, 200, 400]
    assert running.send("p1", [choice(2)]) == 200
    monkeypatch.setattr(answers, "MAX_CHOICES", 1)
    monkeypatch.setattr(server, "MAX_BODY", 400)  # bytes; a line has 130
    assert [running.send("p1", [choice(n)]) for n in range(3, 6)] == [200, 400, 400]
    assert len(running.lines("p1")) == 3


def test_a_client_that_says_nothing_keeps_nobody_waiting(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.server.server_port)):
        assert running.send("p1", [choice(1)]) == 200


def raw(running: Running, request: bytes, receive_buffer: int | None = None) -> socket.socket:
    """A connection on which these bytes were sent."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", running.server.server_port))
    connection.sendall(request)
    return connection


def test_a_slow_phone_gets_the_whole_page(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page may take longer than the timeout, as long as the client takes some of it now and then."""
    monkeypatch.setattr(server._Handler, "timeout", 1.0)
    running.server.html = bytes(24 << 20)
    request = f"GET / HTTP/1.0\r\nCookie: {running.cookie}\r\n\r\n".encode()
    received, begun = 0, time.monotonic()
    with raw(running, request, receive_buffer=64 << 10) as slow:
        while data := slow.recv(1 << 20):
            received += len(data)
            while time.monotonic() - begun < 3 * received / len(running.server.html):
                time.sleep(0.01)
    assert received > len(running.server.html) and time.monotonic() - begun > 2.5


def test_a_client_that_says_a_byte_now_and_then_is_ended(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 0.5)
    with raw(running, b"POST /answers HTTP/1.0\r\n") as slow, studied.waiting(10, "end") as more:
        slow.setblocking(False)
        ended = False
        while not ended and more():
            try:
                slow.send(b"a")
                ended = slow.recv(1000) == b""
            except BlockingIOError:
                continue
            except ConnectionError:
                ended = True


def test_too_many_clients_that_say_nothing(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_WAITING", 2)
    idle = [raw(running, b"GET") for _ in range(2)]
    with studied.waiting(10, "connection") as more:
        while len(running.server._waiting) < 2 and more():
            pass
    with raw(running, b"") as third:
        assert third.recv(1) == b""
    for each in idle:
        each.close()
    with studied.waiting(10, "end of the idle ones") as more:
        while running.server._waiting and more():
            pass
    assert running.send("p1", [choice(1)]) == 200


@pytest.mark.parametrize("address", ["http://[", "http://[x]:y/", "/?token=%", "*"])
def test_what_is_no_address_is_refused_without_a_word_on_the_terminal(running: Running, address: str) -> None:
    with raw(running, f"GET {address} HTTP/1.0\r\n\r\n".encode()) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.0 403 ")


def test_a_refusal_arrives_although_the_request_has_a_body(running: Running) -> None:
    head = b"POST /answers HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n"
    with raw(running, head + b"x" * 200_000) as connection:
        reply = b""
        while data := connection.recv(1000):
            reply += data
        time.sleep(0.3)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0  # no reset, which can overtake a reply
    assert reply.startswith(b"HTTP/1.0 403 ")


def test_closing_does_not_wait_for_a_client_that_says_nothing(tmp_path: Path) -> None:
    place, study = studied.make(tmp_path)
    with server.open_server(place, "127.0.0.1", 0, print) as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        idle = raw(Running(place, study, opened, []), b"GET")
        with studied.waiting(10, "connection") as more:
            while not opened._waiting and more():
                pass
        opened.shutdown()
        thread.join()
        begun = time.monotonic()
    assert time.monotonic() - begun < server.SECONDS / 3
    idle.close()


def test_it_listens_on_an_ipv6_address(tmp_path: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    place, _ = studied.make(tmp_path)
    with server.open_server(place, "::1", 0, print) as opened:
        assert opened.server_port > 0 and opened.socket.family == socket.AF_INET6


def test_a_folder_is_served_once_and_the_token_stays(tmp_path: Path) -> None:
    place, _ = studied.make(tmp_path)
    with server.open_server(place, "127.0.0.1", 0, print) as first:
        token, session = first.token, first.session
        with pytest.raises(Busy, match="another pmagic serves"), server.open_server(place, "127.0.0.1", 0, print):
            pass
        (tmp_path / "other").mkdir()
        other, _ = studied.make(tmp_path / "other")
        taken = first.server_port
        with pytest.raises(Busy, match="cannot be used"), server.open_server(other, "127.0.0.1", taken, print):
            pass
    with server.open_server(place, "127.0.0.1", 0, print) as again:
        assert (again.token, again.session) == (token, session)
    assert (place / folder.TOKEN).stat().st_mode & 0o777 == 0o600 and len(token) == 32
    for data in (b"", b"\xff" * 40, b"a token with spaces in it"):
        (place / folder.TOKEN).write_bytes(data)
        with pytest.raises(StorageFailed, match="no access token"), server.open_server(place, "127.0.0.1", 0, print):
            pass
    with pytest.raises(NotFound), server.open_server(tmp_path, "127.0.0.1", 0, print):
        pass


def test_a_host_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    place, _ = studied.make(tmp_path)
    monkeypatch.setattr(server.Server, "server_bind", unknown)
    with pytest.raises(UsageError, match="--host cannot be 'nowhere'"), server.open_server(place, "nowhere", 0, print):
        pass

    def elsewhere(self: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(server.Server, "server_bind", elsewhere)
    with (
        pytest.raises(UsageError, match="is no address of this machine"),
        server.open_server(place, "10.9.8.7", 0, print),
    ):
        pass


Start = Callable[..., tuple["subprocess.Popen[str]", Running]]


@pytest.fixture(name="start")
def start_fixture() -> Iterator[Start]:
    """Starts `pmagic study serve` as a person does. None of the processes outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def started(place: Path, port: int = 0) -> tuple[subprocess.Popen[str], Running]:
        process, client = _start(place, port)
        processes.append(process)
        return process, client

    yield started
    for each in processes:
        each.kill()
        each.communicate()


def _start(place: Path, port: int) -> tuple[subprocess.Popen[str], Running]:
    command = [sys.executable, "-m", "pmagic", "study", "serve", str(place), "--port", str(port), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.communicate()
        text += line
    told = json.loads(text)

    class Other:
        server_port, token = told["port"], told["address"].partition("token=")[2]

    return process, Running(place, folder.read(place), Other(), [])  # type: ignore[arg-type]


def test_kill_9_in_the_middle_loses_no_answer_that_was_acknowledged(start: Start, tmp_path: Path) -> None:
    place, study = studied.make(tmp_path, count=40, checks=4)
    acknowledged: dict[str, list[int]] = {}
    port = 0
    for turn in range(2):
        process, client = start(place, port)
        port = client.server.server_port
        cookie = client.cookie

        def session(who: str, client: Running = client, cookie: str = cookie) -> None:
            kept = acknowledged.setdefault(who, [])
            for n in range(len(kept) + 1, 800):
                body = json.dumps({"study": study.id, "participant": who, "choices": [choice(n)]}).encode()
                try:
                    status, _, reply = client.ask(
                        "POST", "/answers", body, Content_Type="application/json", Cookie=cookie
                    )
                except (OSError, http.client.HTTPException):
                    return
                assert status == 200 and json.loads(reply) == {"kept": n}
                kept.append(n)

        threads = [threading.Thread(target=session, args=(f"p{number}",)) for number in range(4)]
        for each in threads:
            each.start()
        with studied.waiting(60, "answer of everyone") as more:
            while sum(map(len, acknowledged.values())) < 40 * (turn + 1) and more():
                pass
        process.kill()
        process.communicate()
        for each in threads:
            each.join()
    assert all(len(each) > 5 for each in acknowledged.values())
    for who, kept in acknowledged.items():
        data = (place / folder.ANSWERS / f"{who}.jsonl").read_bytes()
        whole = [json.loads(line)["n"] for line in data.split(b"\n") if line.endswith(b"}")]
        assert set(kept) <= set(whole), who


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    place, _ = studied.make(tmp_path)
    process, client = start(place)
    assert client.send("p1", [choice(1)]) == 200
    begun = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "" and err == "", err
    assert time.monotonic() - begun < 10
    with server.open_server(place, "127.0.0.1", 0, print):  # the lock is free
        pass
