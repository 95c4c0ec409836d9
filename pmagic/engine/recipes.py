"""Recipes: named sets of values. A recipe never forks the code."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, cast

from pmagic import shelf
from pmagic.engine import prompts
from pmagic.engine.schedulers import SCHEDULERS
from pmagic.errors import UsageError
from pmagic.persona import MAX_TOKENS, REFERENCE_BOUNDS, StageBounds

REFERENCE_LOSSES: Mapping[str, float] = MappingProxyType({"masked_mse": 1.0, "tandem_equilibrium": 0.001})
PAPER_LOSSES: Mapping[str, float] = MappingProxyType({"masked_mse": 1.0, "tandem_equilibrium": 1.0, "identity": 1.0})
LOOK_AT_FACES = ("identity", "identity_constant")  # the losses that do, said here as their modules need torch
REFERENCE_NEGATIVE = "monochrome, lowres, bad anatomy, worst quality, low quality"
MAX_SIDE = 8192  # pixels; sixteen times what Stable Diffusion was trained on


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """Everything that decides what is learned, besides the photo and the base."""

    recipe: str
    iterations: int = 1000  # optimiser steps, >= 1
    batch: int = 2  # samples per step, >= 1
    learning_rate: float = 1e-4  # effective; the authors' code scales 5e-5 by its batch of 2
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    seed: int = 0
    bounds: StageBounds | None = REFERENCE_BOUNDS  # None: found by the probe
    iou_low: float = 0.7  # lambda_1 of the probe, reached at the dynamic interval's upper end
    iou_high: float = 0.8  # lambda_2, reached at its lower end; 1 leaves out the second static stage
    narrowest: int = 100  # timesteps that the probe's dynamic stage has at least; 100 are five of 50 steps
    fallback: StageBounds = (
        REFERENCE_BOUNDS  # in place of the probe's own where that is narrower, or where there is none
    )
    probe_iterations: int = 100  # optimiser steps of the probe
    alike: float = 0.28  # cosine of two faces from which they count as one person's
    tokens: int = 4  # placeholders n
    residual_dropout: float = 0.5  # probability with which a sample's whole residual is zeroed
    losses: Mapping[str, float] = field(default_factory=lambda: REFERENCE_LOSSES)
    weights: str = ""  # which of the base's weights get a difference; a name in reweighting.WEIGHT_SETS, "" for none
    rank: int = 0  # of each weight's difference; 0 is whole
    token_rate: float | None = None  # learning rate of what stands for the name, where weights are trained, too
    clip: float = float("inf")  # the largest norm of a step's gradient
    kind: str = "face"  # "face", "object" or "style": which training templates
    templates: tuple[str, ...] = prompts.TEMPLATES["face"]
    open_prompts: tuple[str, ...] = prompts.OPEN_PROMPTS

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "tokens", "probe_iterations", "narrowest"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}", "give a larger number")
        if self.tokens > MAX_TOKENS:
            raise UsageError(f"tokens must be at most {MAX_TOKENS}, not {self.tokens}", "4 is usual")
        if not 0 <= self.rank <= 1024:
            raise UsageError(f"the rank must be from 0 to 1024, not {self.rank}", "0 keeps the whole difference")
        if not self.clip > 0:
            raise UsageError(f"the gradient's largest norm must be above 0, not {self.clip}", "1 is usual")
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"the learning rate must be above 0, not {self.learning_rate}", "try 0.0001")
        if not 0 < self.iou_low < self.iou_high <= 1:
            raise UsageError(
                f"the probe's thresholds must satisfy 0 < iou_low < iou_high <= 1, not {self.iou_low}, {self.iou_high}",
                "the paper has 0.7 and 0.8",
            )
        for text in (*self.templates, *self.open_prompts):
            if prompts.NAME not in text:
                raise UsageError(
                    f"the training prompt {text!r} has no {prompts.NAME}", "write {} where the name stands"
                )

    @property
    def looks_at_faces(self) -> bool:
        """Whether a loss does, and so decodes what is learned from."""
        return any(self.losses.get(name) for name in LOOK_AT_FACES)

    def as_table(self) -> dict[str, object]:
        """Plain values for a persona's record."""
        table = asdict(replace(self, bounds=None, losses={}))
        for name in ("weights", "rank", "token_rate", "clip"):  # in the record of a method that has them alone
            if table[name] == type(self).__dataclass_fields__[name].default:
                del table[name]
        table["bounds"] = [self.bounds.low, self.bounds.high] if self.bounds else []
        table["fallback"] = [self.fallback.low, self.fallback.high]
        table["losses"] = dict(self.losses)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """How pictures are drawn. Each recipe has its own, in RENDER_DEFAULTS."""

    steps: int = 50  # sampler steps, >= 1
    guidance: float = 8.0  # classifier-free guidance scale; 1 or less draws without guidance
    scheduler: str = "dpm++"  # a name in rendering.SCHEDULERS
    negative: str = ""
    size: tuple[int, int] | None = None  # width, height in pixels, multiples of 8; None is the base's own
    batch: int = 1  # pictures drawn at once; above 1 a picture may differ in its last bits from the same drawn alone

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise UsageError(
                f"steps must be from 1 to 1000, not {self.steps}", "leave it out for the base's usual number"
            )
        if self.batch < 1:
            raise UsageError(f"the batch must be at least 1, not {self.batch}", "give a larger number")
        if not 0 <= self.guidance < float("inf"):
            raise UsageError(
                f"the guidance must be 0 or above, not {self.guidance}", "leave it out for the base's usual one"
            )
        if self.scheduler not in SCHEDULERS:
            raise UsageError(f"there is no scheduler {self.scheduler!r}", f"choose one of: {', '.join(SCHEDULERS)}")
        for side in self.size or ():
            if side < 8 or side % 8:
                near = max(8, 8 * round(side / 8))
                raise UsageError(f"a picture's sides must be multiples of 8, not {side}", f"{near} is the nearest")
            if side > MAX_SIDE:
                raise UsageError(
                    f"a picture's sides are at most {MAX_SIDE} pixels, not {side}",
                    "leave it out for the base's own size",
                )


def _reference() -> LearnSettings:
    return LearnSettings(recipe="reference")


def _paper() -> LearnSettings:
    return LearnSettings(
        recipe="paper",
        learning_rate=5e-5,
        bounds=None,
        losses=PAPER_LOSSES,
        open_prompts=(*prompts.OPEN_PROMPTS, *prompts.MORE_OPEN_PROMPTS),
    )


def _tuned() -> LearnSettings:
    return replace(_paper(), recipe="tuned")


# `tuned` is `paper` with what was measured on a base: its pmagic.toml says it under [learn.tuned].
RECIPES: Mapping[str, Callable[[], LearnSettings]] = {"tuned": _tuned, "paper": _paper, "reference": _reference}
REFINES: Mapping[str, str] = {"tuned": "paper"}  # recipes for which a base's [learn.OTHER] holds, too
DEFAULT = "tuned"
RENDER_DEFAULTS: Mapping[str, RenderSettings] = {
    "reference": RenderSettings(scheduler="dpm++-sigma-min", negative=REFERENCE_NEGATIVE),
    "paper": RenderSettings(scheduler="ddim"),
    "tuned": RenderSettings(scheduler="ddim"),
}


@contextmanager
def _usable(table: str) -> Iterator[None]:
    """Values of the wrong type can only come from a base's pmagic.toml: the command line's have been read by type."""
    try:
        yield
    except TypeError as error:
        raise UsageError(
            f"a value in [{table}] of the base's pmagic.toml is of the wrong type: {error}", "correct the file"
        ) from error


@_usable("learn")
def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    """A recipe's values, under those of the base's pmagic.toml (see of_base), under the person's own.

    An override of None counts as not given. bounds may be a pair (low, high). What the kind cannot have is left out.
    Raises UsageError for an unknown recipe, key or kind.
    """
    if recipe not in RECIPES:
        raise UsageError(f"there is no recipe {recipe!r}", f"choose one of: {', '.join(RECIPES)}")
    settings = RECIPES[recipe]()
    given = {key: value for key, value in overrides.items() if value is not None}
    values = {**of_base(recipe, base_defaults), **given}
    kind = values.get("kind", settings.kind)
    if kind not in prompts.TEMPLATES:
        raise UsageError(f"there is no kind {kind!r}", f"choose one of: {', '.join(prompts.TEMPLATES)}")
    if "templates" not in values or ("kind" in given and "templates" not in given):
        values["templates"] = prompts.TEMPLATES[kind]  # a kind that the person names outweighs the base's templates
    known = {each.name for each in fields(LearnSettings)} - {"recipe"}
    for key in values:
        if key not in known:
            raise UsageError(f"learning has no setting {key!r}", f"choose one of: {', '.join(sorted(known))}")
    return _fitting(replace(settings, **{key: _as_typed(key, value) for key, value in values.items()}))


def of_base(recipe: str, base_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a base's pmagic.toml wants of learning: [learn], and over it what [learn.RECIPE] says of one recipe.

    Between them stands what it says of the recipe that this one refines.
    """
    learn = base_defaults.get("learn", {})
    return {**of_all(base_defaults), **learn.get(REFINES.get(recipe, ""), {}), **learn.get(recipe, {})}


def of_all(base_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a base's pmagic.toml wants of every learning: [learn] without the tables of recipes and of methods."""
    tables = {*RECIPES, *shelf.names("methods")}
    return {key: value for key, value in base_defaults.get("learn", {}).items() if key not in tables}


@_usable("render")
def render_settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> RenderSettings:
    """The recipe's way to draw, under the base's pmagic.toml [render], under the person's own."""
    if recipe not in RENDER_DEFAULTS:
        raise UsageError(f"there is no recipe {recipe!r}", f"choose one of: {', '.join(RENDER_DEFAULTS)}")
    given = {key: value for key, value in overrides.items() if value is not None}
    values: dict[str, Any] = {**base_defaults.get("render", {}), **given}
    known = {each.name for each in fields(RenderSettings)}
    for key in values:
        if key not in known:
            raise UsageError(f"drawing has no setting {key!r}", f"choose one of: {', '.join(sorted(known))}")
    if "size" in values:
        values["size"] = tuple(values["size"])
    return replace(RENDER_DEFAULTS[recipe], **values)


def _fitting(settings: LearnSettings) -> LearnSettings:
    """Without what a kind cannot have: only a face has an identity, and a style has no place for the probe to find."""
    if settings.kind == "face":
        return settings
    losses = {name: weight for name, weight in settings.losses.items() if name != "identity"}
    bounds = settings.bounds or (REFERENCE_BOUNDS if settings.kind == "style" else None)
    return replace(settings, losses=MappingProxyType(losses), bounds=bounds)


def _as_typed(key: str, value: Any) -> Any:
    if key in ("bounds", "fallback") and not isinstance(value, StageBounds):
        low, high = value
        try:
            return StageBounds(int(low), int(high))
        except ValueError as error:
            raise UsageError(str(error), "write it as LOW:HIGH, for example 400:800") from error
    if key == "losses":
        return MappingProxyType(dict(cast(Mapping[str, float], value)))
    return tuple(value) if isinstance(value, list) else value
