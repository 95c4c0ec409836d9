"""The OpenAI images API: `POST /v1/images/generations`, `GET /v1/models`, and the queue as JSON or as events."""

import asyncio
import base64
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pmagic import settings
from pmagic.errors import PmagicError
from pmagic.library.naming import Address
from pmagic.library.store import Library
from pmagic.serving import jobs, replies
from pmagic.serving.jobs import Job, JobQueue
from pmagic.serving.replies import Refused
from pmagic.tasks.drawing import RenderOptions, Scene, find_base, prepare
from pmagic.tasks.prompt_text import render_prompt, title_of

if TYPE_CHECKING:
    from pmagic.serving.personas import PersonaCache

MAX_BODY = 64 * 1024  # bytes
MAX_PROMPT = 4000  # characters
MAX_COUNT = 10  # pictures of one request
MAX_SIDE = 2048  # pixels
MAX_STEPS = 200
FORMATS = ("png", "jpeg", "webp")
# Fields of the API that change nothing here: which quality or style is drawn, the base and the prompt decide.
IGNORED = {"quality", "style", "user", "moderation", "background", "output_compression"}
QUEUE_SECONDS = 0.25  # between two looks at the queue
_SIZE = re.compile(r"(\d{1,4})x(\d{1,4})", re.ASCII)
# The fields that are read, with their types. None and a missing field are the same.
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "model": (str,), "prompt": (str,), "n": (int,), "size": (str,), "response_format": (str,), "output_format": (str,),
    "seed": (int,), "steps": (int,), "guidance": (int, float), "scheduler": (str,), "negative": (str,),
    "stream": (bool,), "partial_images": (int,),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """The checked body of a request."""

    model: str
    prompt: str
    kind: str  # of the pictures' files, see FORMATS
    options: RenderOptions


@dataclass(frozen=True, kw_only=True)
class ImagesApi:
    """What the endpoints share. options: the server's own device, number type and memory. base: as of `--base`."""

    queue: JobQueue
    personas: "PersonaCache"
    options: RenderOptions
    base: str | None

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/images/generations", self.generate, methods=["POST"]),
                Route("/v1/models", self.models, methods=["GET"]),
                Route("/v1/models/{name:path}", self.model, methods=["GET"]),
                Route("/v1/queue", self.show_queue, methods=["GET"]),
            ],
            exception_handlers={
                Refused: replies.on_refused,
                PmagicError: replies.on_problem,
                HTTPException: replies.on_no_such_path,
                Exception: self._on_defect,
            },
        )

    async def _on_defect(self, request: Request, error: Exception) -> Response:
        return replies.from_problem(self.queue.on_defect(error))

    async def generate(self, request: Request) -> Response:
        asked = parse(await replies.read_json(request, MAX_BODY), self.options)
        address = self.personas.find(asked.model)
        prompt = render_prompt(asked.prompt, str(address))
        scene = Scene(prompt=prompt, title=title_of(prompt, address.name))
        work = partial(self._draw, address=address, scene=scene, asked=asked)
        job = self.queue.submit(Job(str(address), asked.options.count, work))
        gone = asyncio.ensure_future(replies.client_gone(request))
        data: list[dict[str, object]] = []
        try:
            async for kind, value in job.events(gone):
                if kind == jobs.PROBLEM:
                    return replies.from_problem(value)
                if kind == "picture":
                    data.append(value)
        finally:
            gone.cancel()
        return JSONResponse({"created": int(time.time()), "output_format": asked.kind, "data": data})

    async def models(self, request: Request) -> Response:
        addresses = await asyncio.to_thread(Library(settings.library_dir()).addresses)
        names = [*dict.fromkeys(each.name for each in addresses), *map(str, addresses)]
        return JSONResponse({"object": "list", "data": [_model(name) for name in sorted(names)]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.personas.find(name)
        return JSONResponse(_model(name))

    async def show_queue(self, request: Request) -> Response:
        if "text/event-stream" in request.headers.get("accept", ""):
            return StreamingResponse(self._queue_events(), media_type="text/event-stream")
        return JSONResponse(self._queue_state())

    async def _queue_events(self) -> AsyncIterator[str]:
        """The state of the queue whenever it changes, until the server stops."""
        last = None
        while not self.queue.closed:
            state = json.dumps(self._queue_state())
            if state != last:
                yield f"data: {state}\n\n"
                last = state
            await asyncio.sleep(QUEUE_SECONDS)

    def _queue_state(self) -> dict[str, object]:
        def describe(job: Job) -> dict[str, object]:
            steps = {"done": job.done, "steps": job.steps} if job.started is not None else {}
            return {"id": job.number, "model": job.who, "n": job.count, **steps}

        return {
            "object": "queue",
            "limit": self.queue.limit,
            "running": [describe(each) for each in list(self.queue.running)],
            "waiting": [describe(each) for each in self.queue.waiting()],
        }

    def _draw(self, job: Job, device: str, *, address: Address, scene: Scene, asked: ImageRequest) -> None:
        """Draws in the worker's thread, as `pmagic render` does."""
        from pmagic import pictures

        persona = self.personas.load(address)
        spec = find_base([(address, persona)], self.base)
        options = replace(asked.options, device=device)
        task = prepare(
            job, {"": (address, persona)}, [scene], options, base=spec, settings=options.settings([persona], spec)
        )
        for picture in task.pictures(job):
            file = pictures.encode_image(picture.image, asked.kind, picture.metadata)
            text = base64.b64encode(file).decode()
            job.emit("picture", {"b64_json": text, "revised_prompt": scene.title, "seed": picture.seed})


def parse(body: Mapping[str, Any], options: RenderOptions) -> ImageRequest:
    """Checks a body. options: the server's own, which the request's values replace. Raises Refused and UsageError."""
    given = {name: value for name, value in body.items() if value is not None and name not in IGNORED}
    for name, value in given.items():
        kinds = _FIELDS.get(name)
        if kinds is None:
            raise Refused(400, f"there is no field {name[:80]!r}", code="unknown_parameter", param=name[:80])
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise Refused(400, f"{name} must be {' or '.join(each.__name__ for each in kinds)}", param=name)
    for name in ("model", "prompt"):
        if not given.get(name):
            raise Refused(400, f"{name} is missing", code="missing_required_parameter", param=name)
    count, steps = given.get("n", 1), given.get("steps", 1)
    kind = given.get("output_format", "png")
    _require(len(given["prompt"]) <= MAX_PROMPT, "prompt", f"is longer than {MAX_PROMPT} characters")
    _require(len(given.get("negative", "")) <= MAX_PROMPT, "negative", f"is longer than {MAX_PROMPT} characters")
    _require(1 <= count <= MAX_COUNT, "n", f"must be 1 to {MAX_COUNT}")
    _require(1 <= steps <= MAX_STEPS, "steps", f"must be 1 to {MAX_STEPS}")
    _require(kind in FORMATS, "output_format", f"must be one of {', '.join(FORMATS)}")
    _require(given.get("response_format", "b64_json") == "b64_json", "response_format", "must be b64_json")
    _require(not given.get("stream") and not given.get("partial_images"), "stream", "is not supported")
    seed = given.get("seed", secrets.randbelow(2**31))
    _require(0 <= seed <= 2**32 - count, "seed", "must be 0 or more, and with n at most 2^32")
    chosen = replace(
        options,
        count=count,
        seed=seed,
        steps=given.get("steps"),
        guidance=given.get("guidance"),
        scheduler=given.get("scheduler"),
        negative=given.get("negative"),
        size=_size(given.get("size", "auto")),
    )
    return ImageRequest(model=given["model"], prompt=given["prompt"], kind=kind, options=chosen)


def _size(text: str) -> tuple[int, int] | None:
    if text == "auto":
        return None
    found = _SIZE.fullmatch(text)
    _require(found is not None, "size", "must be auto, or WIDTHxHEIGHT as in 512x512")
    assert found is not None
    width, height = int(found[1]), int(found[2])
    fits = all(8 <= side <= MAX_SIDE and side % 8 == 0 for side in (width, height))
    _require(fits, "size", f"must have sides of 8 to {MAX_SIDE} pixels that are multiples of 8")
    return width, height


def _require(is_right: bool, name: str, rule: str) -> None:
    if not is_right:
        raise Refused(400, f"{name} {rule}", code="invalid_value", param=name)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "pmagic"}
