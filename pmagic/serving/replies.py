"""Requests read within limits, and errors in the shape that clients of the OpenAI API expect."""

import asyncio
import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pmagic import errors
from pmagic.errors import PmagicError

BODY_SECONDS = 30.0  # within which the whole body must arrive
INVALID, SERVER = "invalid_request_error", "server_error"
# The answer to each kind of problem. 429 and 503 are those that clients try again by themselves.
_STATUS = {
    errors.UsageError: 400,
    errors.NotFound: 404,
    errors.Incompatible: 400,
    errors.WeightsMissing: 503,
    errors.Busy: 429,
}


class Refused(Exception):
    """A request that gets no picture. param: the field of the body that is wrong, None for all others."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def response(self, retry: bool | None = None) -> Response:
        kind = INVALID if self.status < 500 else SERVER
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        headers = {}
        if retry is not None:
            headers = {"x-should-retry": str(retry).lower(), **({"retry-after": "1"} if retry else {})}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        # In ASCII, for a message may quote half a surrogate pair of the request, which UTF-8 cannot hold.
        return Response(json.dumps({"error": error}), self.status, headers, media_type="application/json")


def from_problem(problem: PmagicError, param: str | None = None) -> Response:
    """The answer to a problem of drawing: what is wrong, and what to do."""
    is_stop = type(problem).__name__ == "Stopping"
    status = 503 if is_stop else next((code for kind, code in _STATUS.items() if isinstance(problem, kind)), 500)
    code = {404: "model_not_found", 429: "queue_full", 503: "not_available"}.get(status)
    message = f"{problem.what}; {problem.next_step}" if problem.next_step else problem.what
    refused = Refused(status, message, code=code, param="model" if status == 404 else param)
    return refused.response(retry=True if status == 429 else False if status >= 500 else None)


async def on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, PmagicError)
    return from_problem(error)


async def on_no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"this server does not answer {request.method[:20]} {request.url.path[:80]}"
    return Refused(error.status_code, message).response()


async def unauthorized(scope: Scope, receive: Receive, send: Send) -> None:
    message = (
        "the token is missing or wrong; send `Authorization: Bearer TOKEN` with the one in the server's token file"
    )
    await Refused(401, message, code="invalid_api_key").response()(scope, receive, send)


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The JSON object in the body. Raises Refused for more than `limit` bytes, a slow body, and anything else."""
    too_large = Refused(413, f"the body is larger than {limit} bytes", code="body_too_large")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 12 or int(length) > limit:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > limit:
                    raise too_large
    except TimeoutError as late:
        raise Refused(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds") from late
    except ClientDisconnect as gone:
        raise Refused(400, "the body ended early") from gone
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not valid JSON: {str(error)[:200]}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise Refused(400, "the body must be a JSON object", code="invalid_json")
    return value


async def client_gone(request: Request) -> None:
    """Returns when the client of a request whose body has been read closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
