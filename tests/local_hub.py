"""A hub on this machine: a real server on a loopback socket, with the parts of the hub's API that a pull uses."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
Repositories = Mapping[str, Mapping[str, bytes]]


@dataclass
class LocalHub:
    """cut: the file whose connection closes after half of it, "" for none. answer: sent to every request."""

    repositories: Repositories
    url: str = ""
    cut: str = ""
    answer: bytes = b""
    fetched: list[str] = field(default_factory=list)  # owner/repo/file of every request


@contextmanager
def serve(repositories: Repositories) -> Iterator[LocalHub]:
    hub = LocalHub(repositories)

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(body=True)

        def do_HEAD(self) -> None:
            self.reply(body=False)

        def reply(self, body: bool) -> None:
            if hub.answer:
                self.wfile.write(hub.answer)
                self.close_connection = True
                return
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith("api/models/"):
                repo = "/".join(path.split("/")[2:4])
                if repo not in hub.repositories:
                    return self.send(b"", 404, {"X-Error-Code": "RepoNotFound"}, body)
                described = self.tree(repo) if "/tree/" in path else self.about(repo)
                if path.endswith("/discussions"):
                    described = {"discussions": [], "count": 0, "start": 0}
                return self.send(json.dumps(described).encode(), 200, {"Content-Type": "application/json"}, body)
            repo, _, rest = path.partition("/resolve/")
            name = rest.partition("/")[2]
            data = hub.repositories.get(repo, {}).get(name)
            if data is None:
                return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"}, body)
            if body:
                hub.fetched.append(f"{repo}/{name}")
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.send(data, 200, {**headers, "Accept-Ranges": "bytes"}, body, cut=hub.cut == name)

        def send(self, data: bytes, status: int, headers: Mapping[str, str], body: bool, cut: bool = False) -> None:
            first = 0
            if status == 200 and self.headers.get("Range", "").startswith("bytes="):
                first = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
                headers = {**headers, "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
                status = 206
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data) - first)}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data[first : first + (len(data) - first) // 2] if cut else data[first:])
            self.close_connection = cut

        def about(self, repo: str) -> dict[str, object]:
            files = [{"rfilename": name, "size": len(data)} for name, data in hub.repositories[repo].items()]
            return {"id": repo, "sha": COMMIT, "siblings": files, "cardData": {"license": "openrail"}}

        def tree(self, repo: str) -> list[dict[str, object]]:
            return [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in hub.repositories[repo].items()
            ]

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
