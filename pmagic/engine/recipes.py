"""Recipes: named sets of values. The code is the same for all recipes."""

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
LOOK_AT_FACES = ("identity", "identity_constant")  # have READS_FACE; named here because their modules import torch
REFERENCE_NEGATIVE = "monochrome, lowres, bad anatomy, worst quality, low quality"
MAX_SIDE = 8192  # pixels; sixteen times what Stable Diffusion was trained on


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """All settings that determine what is learned, besides the photos and the base."""

    recipe: str
    iterations: int = 1000  # optimizer steps, >= 1
    batch: int = 2  # samples per step, >= 1
    learning_rate: float = 1e-4  # effective; the authors' code multiplies 5e-5 by its batch of 2
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    seed: int = 0
    bounds: StageBounds | None = REFERENCE_BOUNDS  # None: found by the probe
    iou_low: float = 0.7  # lambda_1 of the probe, reached at the upper end of the dynamic interval
    iou_high: float = 0.8  # lambda_2, reached at its lower end; 1 omits the second static stage
    narrowest: int = 100  # the least width of the probe's dynamic stage in timesteps; 100 are five of 50 steps
    fallback: StageBounds = REFERENCE_BOUNDS  # used if the probe finds a narrower dynamic stage or none
    probe_iterations: int = 100  # optimizer steps of the probe
    alike: float = 0.28  # the least cosine of two faces that count as one person's
    tokens: int = 4  # number of placeholders n
    residual_dropout: float = 0.5  # probability that a sample's whole residual is set to zero
    losses: Mapping[str, float] = field(default_factory=lambda: REFERENCE_LOSSES)
    weights: str = ""  # the base's weights that get a difference: a name in reweighting.WEIGHT_SETS, "" for none
    rank: int = 0  # of each weight's difference; 0 means full rank
    token_rate: float | None = None  # learning rate of the name's embedding if weights are trained, too
    clip: float = float("inf")  # the largest norm of a step's gradient; larger ones are scaled down
    kind: str = "face"  # "face", "object" or "style"; selects the training templates
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
        """Whether a loss reads faces, and so decodes latents in training."""
        return any(self.losses.get(name) for name in LOOK_AT_FACES)

    def as_table(self) -> dict[str, object]:
        """The settings as plain values, for a persona's record."""
        table = asdict(replace(self, bounds=None, losses={}))
        for name in ("weights", "rank", "token_rate", "clip"):  # recorded only if a method uses them
            if table[name] == type(self).__dataclass_fields__[name].default:
                del table[name]
        table["bounds"] = [self.bounds.low, self.bounds.high] if self.bounds else []
        table["fallback"] = [self.fallback.low, self.fallback.high]
        table["losses"] = dict(self.losses)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """The settings with which pictures are drawn. Each recipe has its own, in RENDER_DEFAULTS."""

    steps: int = 50  # sampler steps, >= 1
    guidance: float = 8.0  # classifier-free guidance scale; 1 or less means no guidance
    scheduler: str = "dpm++"  # a name in rendering.SCHEDULERS
    negative: str = ""
    size: tuple[int, int] | None = None  # width, height in pixels, multiples of 8; None: the base's own size
    batch: int = 1  # pictures drawn at once; above 1, a picture may differ from the same one drawn alone in last bits

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


# `tuned` is `paper` with values that were measured on a base, which its pmagic.toml has under [learn.tuned].
RECIPES: Mapping[str, Callable[[], LearnSettings]] = {"tuned": _tuned, "paper": _paper, "reference": _reference}
REFINES: Mapping[str, str] = {"tuned": "paper"}  # a base's [learn.VALUE] also applies to the recipe KEY
DEFAULT = "tuned"
RENDER_DEFAULTS: Mapping[str, RenderSettings] = {
    "reference": RenderSettings(scheduler="dpm++-sigma-min", negative=REFERENCE_NEGATIVE),
    "paper": RenderSettings(scheduler="ddim"),
    "tuned": RenderSettings(scheduler="ddim"),
}


@contextmanager
def _usable(table: str) -> Iterator[None]:
    """Turn TypeError into UsageError about the base's pmagic.toml; the command line's values have the right types."""
    try:
        yield
    except TypeError as error:
        raise UsageError(
            f"a value in [{table}] of the base's pmagic.toml is of the wrong type: {error}", "correct the file"
        ) from error


@_usable("learn")
def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    """A recipe's values, overridden by those of the base's pmagic.toml (see of_base), overridden by `overrides`.

    An override of None counts as not given. bounds may be a pair (low, high). Settings that do not apply to the kind
    are removed. Raises UsageError for an unknown recipe, key or kind.
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
        values["templates"] = prompts.TEMPLATES[kind]  # a kind that the user gives overrides the base's templates
    known = {each.name for each in fields(LearnSettings)} - {"recipe"}
    for key in values:
        if key not in known:
            raise UsageError(f"learning has no setting {key!r}", f"choose one of: {', '.join(sorted(known))}")
    return _drop_unused(replace(settings, **{key: _convert(key, value) for key, value in values.items()}))


def of_base(recipe: str, base_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The training settings of a base's pmagic.toml for a recipe: [learn], overridden by [learn.RECIPE].

    The table of the recipe that this one refines comes between the two.
    """
    learn = base_defaults.get("learn", {})
    return {**of_all(base_defaults), **learn.get(REFINES.get(recipe, ""), {}), **learn.get(recipe, {})}


def of_all(base_defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a base's pmagic.toml for every recipe: [learn] without the tables of recipes and methods."""
    tables = {*RECIPES, *shelf.names("methods")}
    return {key: value for key, value in base_defaults.get("learn", {}).items() if key not in tables}


@_usable("render")
def render_settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> RenderSettings:
    """The recipe's render settings, overridden by [render] of the base's pmagic.toml, overridden by `overrides`."""
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


def _drop_unused(settings: LearnSettings) -> LearnSettings:
    """Remove what does not apply to the kind: only a face has an identity, and a style has no mask for the probe."""
    if settings.kind == "face":
        return settings
    losses = {name: weight for name, weight in settings.losses.items() if name != "identity"}
    bounds = settings.bounds or (REFERENCE_BOUNDS if settings.kind == "style" else None)
    return replace(settings, losses=MappingProxyType(losses), bounds=bounds)


def _convert(key: str, value: Any) -> Any:
    if key in ("bounds", "fallback") and not isinstance(value, StageBounds):
        low, high = value
        try:
            return StageBounds(int(low), int(high))
        except ValueError as error:
            raise UsageError(str(error), "write it as LOW:HIGH, for example 400:800") from error
    if key == "losses":
        return MappingProxyType(dict(cast(Mapping[str, float], value)))
    return tuple(value) if isinstance(value, list) else value
