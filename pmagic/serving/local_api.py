"""What the socket answers: `POST /render` draws for a command of this user, and sends events as lines of JSON."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pmagic.bases import model_spec
from pmagic.errors import PmagicError
from pmagic.library import bundle
from pmagic.serving import jobs, replies, sameness
from pmagic.serving.jobs import Job, JobQueue
from pmagic.serving.outcomes import Unlike
from pmagic.tasks.drawing import RenderOptions, Scene, prepare

if TYPE_CHECKING:
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.persona import Persona
    from pmagic.serving.personas import PersonaCache

MAX_BODY = 8 * 1024**2  # bytes: more than a file of prompts may have
HEARTBEAT = 0.5  # seconds between lines, so that both sides notice when the other one is gone


@dataclass(frozen=True, kw_only=True)
class LocalApi:
    """What the endpoint needs. devices, dtype: of this server's drawings. folder: of its `--base`, None without."""

    queue: JobQueue
    personas: "PersonaCache"
    devices: Sequence[str]
    dtype: str
    folder: Path | None
    environment: Mapping[str, str]

    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/render", self.render, methods=["POST"])],
            exception_handlers={replies.Refused: replies.on_refused},
        )

    async def render(self, request: Request) -> Response:
        body = await replies.read_json(request, MAX_BODY)
        return StreamingResponse(self._events(body, request), media_type="application/x-ndjson")

    async def _events(self, body: Mapping[str, Any], request: Request) -> AsyncIterator[str]:
        gone = asyncio.ensure_future(replies.client_gone(request))
        try:
            options = self._check(body)
            job = self.queue.submit(
                Job(body["persona"], body["count"], partial(self._draw, body=body, options=options))
            )
            yield _line("accepted", {"ahead": self.queue.ahead_of(job)})
            async for kind, value in job.events(gone, tick=HEARTBEAT):
                if kind == jobs.PROBLEM:
                    yield _line(kind, value.as_dict())
                elif kind != jobs.TICK:
                    yield _line(kind, value)
                if kind not in (jobs.PROBLEM, jobs.END):
                    steps = {"done": job.done, "total": job.steps, "remark": job.remark}
                    yield _line("progress", {**steps, "ahead": self.queue.ahead_of(job)})
        except Unlike as difference:
            yield _line("unlike", str(difference))
        except PmagicError as problem:
            yield _line(jobs.PROBLEM, problem.as_dict())
        finally:
            gone.cancel()

    def _check(self, body: Mapping[str, Any]) -> RenderOptions:
        """Raises Unlike, where another process or place would decide other bits than the command's own."""
        theirs = body.get("environment", {})
        name = sameness.find_difference(theirs, self.environment)
        if name:
            there, here = self.environment.get(name, "not set"), theirs.get(name, "not set")
            raise Unlike(f"{name} differs from the server's ({here[:60]} here, {there[:60]} there)")
        size = body["options"].pop("size")
        options = RenderOptions(**body["options"], size=None if size is None else tuple(size))
        if options.device not in self.devices:
            raise Unlike(f"the server draws on {', '.join(self.devices)}, and this command on {options.device}")
        if options.dtype != self.dtype:
            raise Unlike(f"the server draws with --dtype {self.dtype}, and this command with {options.dtype}")
        if self.folder is not None and str(self.folder) != body["folder"]:
            raise Unlike(f"the server has the base in {self.folder} open, and this command needs {body['folder']}")
        return options

    def _draw(self, job: Job, device: str, *, body: Mapping[str, Any], options: RenderOptions) -> None:
        """Draws in the worker's thread and hands over the pixels; the command writes the files."""
        try:
            persona, spec = self._resolve(body)
        except Unlike as difference:
            job.emit("unlike", str(difference))
            return
        scenes = [Scene(prompt=prompt, title=title) for prompt, title in body["scenes"]]
        people = {"": (body["persona"], persona)}
        task = prepare(job, people, scenes, options, base=spec, settings=options.settings([persona], spec))
        job.emit("prepared", {"metadata": task.metadata, "cut": list(task.cut), "where": task.where})
        for picture in task.pictures(job):
            pixels = base64.b64encode(picture.image.tobytes()).decode()
            about = {"number": picture.number, "seed": picture.seed, "metadata": picture.metadata}
            job.emit("picture", {**about, "size": picture.image.size, "mode": picture.image.mode, "pixels": pixels})

    def _resolve(self, body: Mapping[str, Any]) -> "tuple[Persona, ModelSpec]":
        address = self.personas.find(body["persona"])
        persona = self.personas.load(address)
        if bundle.digest(persona) != body["digest"]:
            raise Unlike(f"{address} is another persona for the server")
        name = body["base"]
        spec = model_spec.resolve(name) if Path(name).is_absolute() else model_spec.resolve_name(name)
        if str(spec.folder) != body["folder"]:
            raise Unlike(f"the server finds the base {name} in {spec.folder}")
        return persona, spec


def _line(kind: str, value: object) -> str:
    return json.dumps([kind, value]) + "\n"
