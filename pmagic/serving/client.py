"""The command's side of the socket: a drawing that a running server makes. It needs neither torch nor the extra."""

import base64
import contextlib
import http.client
import json
import os
import socket
import stat
import struct
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pmagic import errors, settings
from pmagic.errors import PmagicError
from pmagic.library import bundle
from pmagic.serving import sameness, socket_file
from pmagic.serving.outcomes import ServerLost, Unlike
from pmagic.tasks.drawing import Picture, RenderOptions, Scene
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.library.naming import Address
    from pmagic.persona import Persona

Lines = Generator[tuple[str, Any], None, None]  # what happened, and its value

CONNECT_SECONDS = 10.0  # until the first line; a server that imports its libraries answers late
SILENCE = 30.0  # seconds without a line after which the server counts as dead; it sends one every half second
_MAX_LINE = 512 * 1024**2  # bytes; the largest picture has 8192 x 8192 pixels


class _Connection(http.client.HTTPConnection):
    """HTTP over the Unix socket of this user's own server."""

    def __init__(self) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)

    def connect(self) -> None:
        place = socket_file.path()
        about = place.lstat()
        if not stat.S_ISSOCK(about.st_mode) or about.st_uid != os.getuid() or not socket_file.is_private(place.parent):
            raise ConnectionRefusedError
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(place))
        if hasattr(socket, "SO_PEERCRED") and _user_of(self.sock) != os.getuid():
            raise ConnectionRefusedError


@dataclass(frozen=True, kw_only=True)
class RemoteDrawing:
    """A drawing that the server has prepared. It is used as `tasks.drawing.Drawing` is."""

    who: str
    options: RenderOptions
    scenes: Sequence[Scene]
    cut: Sequence[str]
    metadata: Mapping[str, Any]
    where: str
    lines: Lines = field(repr=False)

    @property
    def total(self) -> int:
        return self.options.count * len(self.scenes)

    def pictures(self, reporter: Reporter) -> Iterator[Picture]:
        """The pictures as the server makes them. Leaving early cancels the rest there. Raises what drawing raises."""
        from PIL import Image

        last: object = None
        made = 0
        with contextlib.closing(self.lines), reporter.progress(f"drawing {self.who}") as advance:
            while made < self.total:
                kind, value = next(self.lines)
                if kind == "progress" and value != last:
                    last = value
                    advance(value["done"], value["total"], value["remark"])
                elif kind == "warning":
                    reporter.warn(value)
                elif kind == "picture":
                    made += 1
                    pixels = base64.b64decode(value["pixels"])
                    image = Image.frombytes(value["mode"], tuple(value["size"]), pixels)
                    yield Picture(value["number"], value["seed"], image, value["metadata"], None)
            with contextlib.suppress(ServerLost):  # nothing is missing any more
                for _ in self.lines:
                    pass


def prepare(
    reporter: Reporter,
    address: "Address",
    persona: "Persona",
    scenes: Sequence[Scene],
    options: RenderOptions,
    spec: "ModelSpec",
    before_drawing: Callable[[], None],
) -> RemoteDrawing | None:
    """The drawing, prepared by the server of this library; None where no server runs.

    before_drawing: called when the server has checked everything.
    Raises Unlike where the server would not draw the same bytes, ServerLost, and what preparing raises.
    """
    if not hasattr(socket, "AF_UNIX"):
        return None
    connection = _Connection()
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise Unlike(f"the server does not answer ({error.strerror or error})") from error
    options = replace(options, device=options.device or settings.config().device)
    request = {
        "environment": sameness.environment(),
        "persona": str(address),
        "digest": bundle.digest(persona),
        "base": spec.name,
        "folder": str(spec.folder),
        "options": asdict(options),
        "scenes": [(each.prompt, each.title) for each in scenes],
        "count": options.count * len(scenes),
    }
    lines = _exchange(connection, request)
    for kind, value in lines:
        if kind == "unlike":
            lines.close()
            raise Unlike(value)
        if kind == "warning":
            reporter.warn(value)
        elif kind == "accepted" and value["ahead"]:
            reporter.say(f"waiting for the server, which has {value['ahead']} other drawings to make first")
        elif kind == "prepared":
            try:
                before_drawing()
            except BaseException:
                lines.close()
                raise
            return RemoteDrawing(who=str(address), options=options, scenes=scenes, lines=lines, **value)
    raise _lost()


def is_running() -> bool:
    """Whether a server of this library runs."""
    if not hasattr(socket, "AF_UNIX"):
        return False
    connection = _Connection()
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _exchange(connection: _Connection, request: Mapping[str, Any]) -> Lines:
    """The server's lines up to the end of the drawing. Closing the generator cancels it. Raises the problem it had.

    Raises Unlike where the server has not even answered, else ServerLost.
    """
    answered = False
    try:
        connection.request("POST", "/render", json.dumps(request), {"content-type": "application/json"})
        with contextlib.closing(connection.getresponse()) as response:
            while line := response.readline(_MAX_LINE):
                kind, value = json.loads(line)
                if not answered:
                    answered = True
                    connection.sock.settimeout(SILENCE)
                if kind == "problem":
                    raise _problem(value)
                if kind == "end":
                    return
                yield kind, value
        raise _lost()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _lost() if answered else Unlike(f"the server does not answer ({error})") from error
    finally:
        connection.close()


def _problem(table: Mapping[str, str]) -> PmagicError:
    kind = getattr(errors, table["error"], None) or PmagicError
    return kind(table["what"], table["next"], table["kept"])


def _lost() -> ServerLost:
    return ServerLost("the server ended or stopped answering", "run the same command again")


def _user_of(connection: socket.socket) -> int:
    """The user whose process is at the other end (Linux)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", data)[1]
