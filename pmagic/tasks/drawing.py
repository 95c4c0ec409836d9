"""Drawing personas: check the options, open the base, draw one batch of pictures after another."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pmagic.engine.prompts import check_text
from pmagic.errors import Incompatible, NotFound, OutOfMemory, UsageError
from pmagic.library import bundle
from pmagic.library.naming import Address
from pmagic.tasks import base_options, opened_bases
from pmagic.tasks.metadata import shared_metadata
from pmagic.tasks.reporting import Reporter

if TYPE_CHECKING:
    from PIL import Image

    from pmagic.bases.loading import Base
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.engine.inpainting import InpaintRegion
    from pmagic.engine.recipes import RenderSettings
    from pmagic.engine.regions import Box
    from pmagic.persona import Persona
    from pmagic.tasks.adapter_input import AdapterInput, AppliedAdapter

CountFaces = Callable[["Image.Image"], Mapping[str, int]]  # the number of faces in the place of each name

AT_ONCE = 8  # pictures, at most; more are hardly faster (`python -m tests.bench pictures`)
MAX_PICTURES = 10_000
MAX_STRENGTH = 10.0
UNSAVED = "unsaved"  # what a picture's metadata call a persona that is in no library


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """How pictures are drawn. None means the value of the recipe or of the base.

    size: (width, height) in pixels. strength: the factor of the personas' weight differences. memory: "auto" draws as
    many pictures at once as free memory allows, up to AT_ONCE; "normal" AT_ONCE, whatever is free; "low" one by one.
    exact: one by one, so that a picture has the same bytes alone or among others.
    Raises UsageError.
    """

    count: int = 1
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    negative: str | None = None
    size: tuple[int, int] | None = None
    strength: float = 1.0
    device: str | None = None
    dtype: str = "auto"
    memory: str = "auto"
    exact: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_PICTURES:
            raise UsageError(f"-n must be 1 to {MAX_PICTURES}, not {self.count}", "give for example -n 4")
        base_options.check_seeds(self.seed, self.count)
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise UsageError(
                f"--strength must be from 0 to {MAX_STRENGTH:g}, not {self.strength}",
                "1 draws the persona as it was learned, 0.5 with half of its weights",
            )
        base_options.check_memory(self.memory)
        if self.exact and self.memory == "normal":
            raise UsageError(
                "--exact draws one by one, and --memory normal several pictures at once", "leave one of them out"
            )
        base_options.check_numbers(self.device, self.dtype)
        check_text(self.negative or "", "--negative")

    @property
    def seeds(self) -> list[int]:
        return [self.seed + k for k in range(self.count)]

    def settings(self, personas: "Sequence[Persona]", spec: "ModelSpec") -> "RenderSettings":
        """The usual settings for these personas on this base, changed by the options.

        Personas that were learned with different recipes are drawn with the settings of the default recipe.
        """
        from pmagic.engine import recipes

        learned_by = {str(persona.settings["recipe"]) for persona in personas}
        return recipes.render_settings_for(
            learned_by.pop() if len(learned_by) == 1 else recipes.DEFAULT,
            spec.defaults,
            steps=self.steps,
            guidance=self.guidance,
            scheduler=self.scheduler,
            negative=self.negative,
            size=self.size,
        )

    def pictures_at_once(self, base: "Base", settings: "RenderSettings") -> int:
        """The number of pictures to draw in one batch on this base, now that its weights are in memory."""
        from pmagic.bases import memory_estimate

        if self.exact or self.memory == "low":
            return 1
        most = min(self.count, AT_ONCE)
        free = base_options.memory_free(base.device.type)
        if self.memory == "normal" or most == 1:
            return most
        if free is None:  # this system does not say it
            return 1
        half = base.compute_dtype is not None or base.weights_dtype.itemsize == 2
        size = settings.size or (base.size, base.size)
        needed = {k: memory_estimate.memory_to_draw(base.spec, k, size, half=half) for k in range(2, most + 1)}
        return max((k for k in needed if needed[k] <= free), default=1)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What pictures show. prompt: with the personas' names in braces. title: the prompt as people read it.

    regions: by name, the part of the picture whose prompt has that persona. edit: a place in a background.
    metadata: for the pictures, besides what all pictures share. count_faces: called with each picture.
    """

    prompt: str
    title: str
    regions: "Mapping[str, Box]" = field(default_factory=lambda: MappingProxyType({}))
    edit: "InpaintRegion | None" = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    count_faces: CountFaces | None = None


@dataclass(frozen=True)
class Picture:
    """One drawn picture. number: that of its scene, from 0. faces: by name, if the scene counts them."""

    number: int
    seed: int
    image: "Image.Image"
    metadata: dict[str, object]
    faces: Mapping[str, int] | None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Scenes of the same personas, ready to be drawn. cut: for each scene, the part of the prompt that is not read."""

    base: "Base"
    personas: "Mapping[str, Persona]"  # by the name in the prompt's braces
    names: Mapping[str, str]  # as people know them, by the same name
    options: RenderOptions
    settings: "RenderSettings"
    scenes: Sequence[Scene]
    cut: Sequence[str]
    adapter: "AppliedAdapter | None" = None

    @property
    def who(self) -> str:
        return ", ".join(self.names.values()) or "a look"

    @property
    def where(self) -> str:
        """The base, where and in which numbers it computes, and the number of pictures drawn at once."""
        base = self.base
        return f"{base.spec.name} ({base.device}, {base.computes_in}), {self.settings.batch} at once"

    @property
    def total(self) -> int:
        return self.options.count * len(self.scenes)

    @property
    def metadata(self) -> dict[str, object]:
        """What all pictures share."""
        personas = list(self.personas.values())
        digests = {self.names[each]: bundle.digest(persona) for each, persona in self.personas.items()}
        return {
            "persona": ", ".join(self.names.values()),
            **({"persona_sha256": digests} if digests else {}),
            **({} if self.adapter is None else self.adapter.metadata),
            **shared_metadata(self.base, personas, self.settings, self.options.dtype),
            "size": list(
                self.settings.size or (self.base.size,) * 2
            ),  # of the drawing; a background keeps its own size
            **({"strength": self.options.strength} if self.options.strength != 1 else {}),
        }

    def pictures(self, reporter: Reporter) -> Iterator[Picture]:
        """Yields the pictures, scene by scene in the order of the seeds.

        If the memory is too small for several pictures at once, warns and continues one by one.
        Raises OutOfMemory, NumericFailure, and what the reporter's progress raises.
        """
        from pmagic.engine import rendering, reweighting

        personas = {
            name: reweighting.with_strength(each, self.options.strength) for name, each in self.personas.items()
        }
        settings, seeds, shared = self.settings, self.options.seeds, self.metadata
        batches = deque(
            (number, seeds[first : first + settings.batch])
            for number in range(len(self.scenes))
            for first in range(0, len(seeds), settings.batch)
        )
        finished = 0
        with reporter.progress(f"drawing {self.who}") as advance:
            while batches:
                number, now = batches.popleft()
                scene = self.scenes[number]

                def on_step(done: int, steps: int, count: int = len(now), finished: int = finished) -> None:
                    remark = f"{finished} of {self.total} pictures"
                    advance(finished * steps + count * done, self.total * steps, remark)

                try:
                    with self._adapter(scene):
                        images = rendering.compose(
                            self.base,
                            personas,
                            scene.prompt,
                            now,
                            settings,
                            regions=scene.regions,
                            edit=scene.edit,
                            on_step=on_step,
                        )
                except OutOfMemory as problem:
                    if len(now) == 1:
                        raise
                    reporter.warn(f"{problem.what}, {len(now)} pictures at once; continuing one by one")
                    settings = replace(settings, batch=1)
                    batches = deque((each, [seed]) for each, several in ((number, now), *batches) for seed in several)
                    continue
                batch_metadata = {"at_once": len(now), **({"first_seed": now[0]} if len(now) > 1 else {})}
                for seed, image in zip(now, images, strict=True):
                    metadata = {**shared, "prompt": scene.title, **scene.metadata, **batch_metadata, "seed": seed}
                    faces = None if scene.count_faces is None else scene.count_faces(image)
                    finished += 1
                    yield Picture(number, seed, image, metadata, faces)

    def _adapter(self, scene: Scene) -> AbstractContextManager[None]:
        """The context in which the base reads the looks. Not around a `yield`, where others may draw."""
        if self.adapter is None:
            return nullcontext()
        return self.adapter.applied(self.base, self.settings.guidance, scene.regions)


def prepare(
    reporter: Reporter,
    personas: "Mapping[str, tuple[Address | str, Persona]]",
    scenes: Sequence[Scene],
    options: RenderOptions,
    *,
    base: "Base | ModelSpec",
    settings: "RenderSettings",
    before_opening: Callable[[], None] = lambda: None,
    adapter: "AdapterInput | None" = None,
) -> Drawing:
    """Checks the prompts, then opens the base. personas: with their addresses, by the name in the prompts' braces.

    before_opening: called when everything but the base is checked. adapter: reads looks besides the prompt.
    Raises Incompatible for a base or an adapter with other weights, UsageError, WeightsMissing, PhotoRefused.
    """
    from pmagic.bases import local_bases
    from pmagic.bases.model_spec import ModelSpec
    from pmagic.engine import prompts

    spec = base if isinstance(base, ModelSpec) else base.spec
    if options.count * len(scenes) > MAX_PICTURES:
        raise UsageError(
            f"these are {options.count * len(scenes)} pictures, more than {MAX_PICTURES}", "draw fewer at once"
        )
    if options.strength != 1:
        _check_strength(reporter, personas)
    base_options.quiet_libraries()
    tokenizer = prompts.load_tokenizer(spec.tokenizer_folder)
    tokens = {name: _token_count(*each) for name, each in personas.items()}
    cut = [prompts.check_names(tokenizer, each.prompt, tokens).cut for each in scenes]
    for text in filter(None, cut):
        reporter.warn(f"the prompt is too long; the base does not read: {text!r}")
    cut_negative = prompts.unread(tokenizer, settings.negative)
    if cut_negative:
        reporter.warn(f"the negative prompt is too long; the base does not read: {cut_negative!r}")
        cut = ["; ".join(filter(None, (each, cut_negative))) for each in cut]
    warn_of_instructions(reporter, [*(each.prompt for each in scenes), settings.negative])
    squares = {} if adapter is None else adapter.squares(reporter, spec)
    before_opening()

    if isinstance(base, ModelSpec):
        base = opened_bases.open_base(spec, device=base_options.device(options.device), dtype=options.dtype)
        if not personas:  # which remember their base by themselves, when they are learned
            local_bases.remember(spec, base.fingerprint)
    settings = replace(settings, batch=options.pictures_at_once(base, settings))
    for address, persona in personas.values():
        if base.fingerprint != persona.fingerprint:
            raise Incompatible(
                f"{address} was learned on {persona.base}, and the base in {spec.place} has other weights",
                "restore that base, or learn the persona again",
            )
    names = {name: str(address) for name, (address, _) in personas.items()}
    return Drawing(
        base=base,
        personas={name: persona for name, (_, persona) in personas.items()},
        names=names,
        options=options,
        settings=settings,
        scenes=scenes,
        cut=cut,
        adapter=None if adapter is None else adapter.encode(base, squares, names),
    )


def _check_strength(reporter: Reporter, personas: "Mapping[str, tuple[Address | str, Persona]]") -> None:
    """Raises UsageError if no persona has weights that a strength could scale; says which ones have none."""
    without = [f"{address} ({each.method})" for address, each in personas.values() if not each.changes_weights]
    if len(without) == len(personas):
        raise UsageError(
            f"--strength scales what a persona changes of the base's weights, and {', '.join(without)} changes none",
            "leave --strength out",
        )
    if without:
        reporter.say(f"--strength has no effect on {', '.join(without)}, which changes no weight of the base")


def warn_of_instructions(reporter: Reporter, texts: Sequence[str]) -> None:
    """Warns once about instructions in the prompts that only other tools obey."""
    from pmagic.engine import prompts

    instructions = list(dict.fromkeys(each for text in texts for each in prompts.instructions(text)))
    if instructions:
        more = f" and {len(instructions) - 3} more" if len(instructions) > 3 else ""
        reporter.warn(
            f"{', '.join(instructions[:3])}{more}: other tools obey this in a prompt; pmagic reads it as text, "
            "weights included"
        )


def find_base(personas: "Sequence[tuple[Address | str, Persona]]", moved_to: str | None = None) -> "ModelSpec":
    """The base that all personas were learned on. Its weights must be on this machine.

    Raises Incompatible for personas of two bases, NotFound, WeightsMissing.
    """
    from pmagic.bases import local_bases
    from pmagic.bases import model_spec as specs

    first, persona = personas[0]
    for address, other in personas[1:]:
        if other.fingerprint != persona.fingerprint:
            weights = " with other weights" if other.base == persona.base else ""
            raise Incompatible(
                f"{first} was learned on {persona.base}, {address} on {other.base}{weights}",
                "personas in one picture must be of one base: learn one of them again on the other's",
            )
    if moved_to is not None:
        return specs.require_weights(specs.resolve(moved_to))
    try:
        spec = local_bases.base_of(persona.base, persona.fingerprint)
    except NotFound as problem:
        raise NotFound(
            f"the base of the persona is not known here: {persona.base}", "say where it is with --base"
        ) from problem
    return specs.require_weights(spec)


def _token_count(address: Address | str, persona: "Persona") -> int:
    tokens = persona.settings.get("tokens")
    if not isinstance(tokens, int):
        raise Incompatible(f"{address} does not say how many tokens stand for its name", "learn the persona again")
    return tokens
