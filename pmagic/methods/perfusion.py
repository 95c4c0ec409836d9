"""Perfusion (Tewel et al., SIGGRAPH 2023): one token, and one value vector for each cross-attention.

No weight of the base changes. Keys are locked to those of the class word, values are learned, and both are put in
where the text holds the concept (engine/rank_one_edit.py). As in the paper, there is one target a layer; the public
code that others compare with keeps one for each text position. Flips and global key locking are not implemented.
"""

# B batch . w text width . o output features of a projection . k personas

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from pmagic.bases import memory_estimate
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import captions, composing, randomness, rank_one_edit, token_batch, training
from pmagic.engine.attention import cross_attentions
from pmagic.engine.composing import EmbeddingSchedule, LearnedTokens
from pmagic.engine.rank_one_edit import Concepts, rank_one_edits
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.subject import Subject
from pmagic.engine.text_encoding import encode
from pmagic.engine.token_batch import TokenBatch
from pmagic.engine.training import StepReport, TrainingContext
from pmagic.errors import Incompatible, UsageError
from pmagic.methods import _weights, persona_of, report_persona, require_base
from pmagic.persona import Persona, StageBounds

WHOLE = StageBounds(0, 1000)
# The values of the public code. Its batch of 4 is accumulated 4 times, which is one batch here.
OWN: Mapping[str, Any] = {
    "tokens": 1,
    "bounds": (WHOLE.low, WHOLE.high),
    "losses": {"soft_mask_mse": 1.0},
    "learning_rate": 0.03,
    "token_rate": 0.006,
    "batch": 16,
    "iterations": 400,
}
TRAIN_GATE = (0.75, 0.1)  # beta, tau
DRAW_GATE = (0.6, 0.15)
INERTIA = 0.99  # of the concept's encoding, a moving average of its token's encodings

TRAINED = "a token, and a value vector for each layer"
SOURCE = (
    "Perfusion (Tewel et al., SIGGRAPH 2023, arXiv 2305.01644), by ChenDarYen's public code (MIT), "
    "written anew here under Apache-2.0"
)
HAS_STAGES = False


def settings_for(recipe: str, base_defaults: Mapping[str, Any], **overrides: Any) -> LearnSettings:
    """The published values, overridden by [learn.perfusion] of the base's pmagic.toml, overridden by `overrides`."""
    return _weights.settings_for("perfusion", OWN, recipe, base_defaults, **overrides)


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The values of token and targets. Raises Incompatible if the base's weights cannot be read."""
    shapes = memory_estimate.unet_shapes(spec)
    targets = sum(shape[0] for name, shape in shapes.items() if name.endswith("attn2.to_v.weight"))
    return targets + memory_estimate.text_width(spec)


def kept_bytes(spec: ModelSpec, settings: LearnSettings) -> int:
    """Bytes of token and targets, and of the encodings of concept and class word, in float32."""
    layers = memory_estimate.count_cross_attentions(spec)
    record = layers * (_weights.RECORD + 2 * len("learner.values.0"))
    return 4 * (count_weights(spec, settings) + 3 * memory_estimate.text_width(spec)) + record


class ConceptLearner(nn.Module):
    """The token (1, w) and the values' targets (o,) of each cross-attention, trained behind the gated edit."""

    keys: Tensor
    encoding: Tensor
    dual: Tensor
    gate: Tensor

    def __init__(self, unet: nn.Module, word: Tensor, class_encoding: Tensor, inverse: Tensor) -> None:
        """word: (w,). class_encoding: (w,), of the class word in the prompts. inverse: C^-1 (w, w) in float64."""
        super().__init__()
        self.token = nn.Parameter(word.detach().clone()[None])
        keys, values = targets_of(unet, class_encoding)
        self.values = nn.ParameterList(values)
        self.locked = keys
        self.inverse = inverse
        self.register_buffer("encoding", class_encoding.clone())  # i
        self.register_buffer("dual", self.dual_of(class_encoding), persistent=False)  # C^-1 i
        self.register_buffer("gate", torch.tensor([TRAIN_GATE], dtype=word.dtype, device=word.device), persistent=False)

    def forward(self, t: Tensor, image_embedding: Tensor) -> tuple[Tensor, None]:
        """The same token (B, 1, w) for every t and every photo."""
        return self.token.expand(len(t), -1, -1), None

    def apply_to(self, unet: nn.Module) -> AbstractContextManager[None]:
        """While inside, the UNet's cross-attention is edited."""
        concepts = Concepts(self.encoding[None], self.dual[None], self.gate)
        return rank_one_edits(
            unet, concepts, [each[None] for each in self.locked], [each[None] for each in self.values]
        )

    def groups(self, settings: LearnSettings) -> list[dict[str, Any]]:
        """The optimizer's groups: the targets at `learning_rate`, the token at `token_rate`."""
        rate = settings.token_rate or settings.learning_rate
        return [{"params": list(self.values)}, {"params": [self.token], "lr": rate}]

    @torch.no_grad()
    def before_step(self, context: TrainingContext, sample: randomness.StepSample, step: int) -> None:
        """Move i towards the token's encodings in this step's prompts; no gradient passes through it."""
        batch = context.templates.select(sample.to(context.base.device).template)
        self.encoding.copy_(moving_average(self.encoding, placeholder_encodings(context.base, batch, self.token)))
        self.dual.copy_(self.dual_of(self.encoding))

    def dual_of(self, encoding: Tensor) -> Tensor:
        """C^-1 i, computed in float64: C has directions a hundred thousand times weaker than others."""
        return (self.inverse @ encoding.double().cpu()).to(encoding)


def moving_average(encoding: Tensor, seen: Tensor) -> Tensor:
    """The concept's encoding i (w,) after a pass that saw the encodings (B, w) of its token."""
    return INERTIA * encoding + (1 - INERTIA) * seen.mean(dim=0)


def placeholder_encodings(base: Base, batch: TokenBatch, token: Tensor) -> Tensor:
    """What the text encoder makes of the token (1, w) in each prompt of the batch: (B, w)."""
    dynamic = token.expand(len(batch.ids), -1, -1)
    keys = encode(base, batch, dynamic, None).condition.keys
    return keys[batch.placeholder_index == 0]


@torch.no_grad()
def targets_of(unet: nn.Module, class_encoding: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The keys and values (o,) that each cross-attention makes of the class word: o_K, and where o_V begins."""
    layers = cross_attentions(unet).values()
    keys, values = (
        [class_encoding @ each.weight.to(class_encoding.dtype).T for each in projections]
        for projections in ([layer.to_k for layer in layers], [layer.to_v for layer in layers])
    )
    return keys, values


@torch.no_grad()
def make_learner(base: Base, subject: Subject, settings: LearnSettings) -> ConceptLearner:
    """An untrained concept, equal to the class word. Raises UsageError for settings that this method does not have."""
    _require_usable(settings)
    word = token_batch.word_embedding(base, subject.word).to(base.learner_dtype)
    templates = token_batch.tokens_with_name(base, settings.templates, 1)
    class_encoding = placeholder_encodings(base, templates, word[None]).mean(dim=0).to(base.learner_dtype)
    text_encoder = base.pipeline.text_encoder
    inverse = rank_one_edit.cached_inverse(text_encoder, lambda: captions.caption_rows(base))
    return ConceptLearner(base.pipeline.unet, word, class_encoding, inverse)


def learn(
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    on_step: Callable[[StepReport], None] = lambda report: None,
    checkpoint: Path | None = None,
) -> Persona:
    """Train token and targets on the subject. Raises the errors of `training.train`, and UsageError."""
    learner = make_learner(base, subject, settings)
    class_encoding = learner.encoding.clone()

    def finished(losses: Mapping[str, float]) -> Persona:
        persona = persona_of("perfusion", base, subject, settings, learner, losses)
        vectors = {
            "encoding": learner.encoding,
            "dual": learner.dual_of(learner.encoding),
            "class_encoding": class_encoding,
        }
        tensors = {**persona.tensors, **{name: each.float().cpu().numpy() for name, each in vectors.items()}}
        about = {"gate": list(DRAW_GATE), "captions": captions_digest()}
        return replace(persona, tensors=tensors, settings={**persona.settings, **about})

    context = training.prepare_training(base, subject, settings)
    return finished(training.train(context, learner, report_persona(on_step, finished), checkpoint))


def captions_digest() -> str:
    """SHA-256 of the sentences that C is made of: encodings of two personas are in one metric if theirs are equal."""
    return hashlib.sha256("\n".join(captions.captions()).encode()).hexdigest()


@contextmanager
def apply(base: Base, personas: Sequence[Persona]) -> Iterator[list[EmbeddingSchedule]]:
    """Apply the edits of all personas at once; one that is named twice counts once.

    Raises Incompatible for a persona of another base.
    """
    schedules = [_schedule(base, each) for each in personas]
    unet = base.pipeline.unet
    different = _different(personas)
    width, layers = sum(base.text_widths), list(cross_attentions(unet).values())
    encodings, duals, words = (
        _stacked(base, different, name, width) for name in ("encoding", "dual", "class_encoding")
    )
    values = [
        _stacked(base, different, f"learner.values.{number}", layer.to_v.out_features)
        for number, layer in enumerate(layers)
    ]
    gates = torch.tensor([_gate(each) for each in different], dtype=base.learner_dtype, device=base.device)
    keys = [torch.stack(each) for each in zip(*(targets_of(unet, word)[0] for word in words), strict=True)]
    concepts = Concepts(encodings, duals, gates)
    with rank_one_edits(unet, concepts, keys, values):
        yield schedules


def _schedule(base: Base, persona: Persona) -> EmbeddingSchedule:
    require_base(base, persona)
    token = _stacked(base, [persona], "learner.token", 1, sum(base.text_widths))[0]
    return composing.constant_schedule(LearnedTokens(token, residual=None))


def _different(personas: Sequence[Persona]) -> list[Persona]:
    """The personas without repetitions."""

    def equal(one: Persona, other: Persona) -> bool:
        keys = one.tensors.keys()
        return keys == other.tensors.keys() and all(np.array_equal(one.tensors[k], other.tensors[k]) for k in keys)

    return [each for number, each in enumerate(personas) if not any(equal(each, one) for one in personas[:number])]


def _stacked(base: Base, personas: Sequence[Persona], name: str, *shape: int) -> Tensor:
    """The tensors of that name of all personas: (k, *shape). Raises Incompatible if one does not fit."""
    arrays = [each.tensors.get(name) for each in personas]
    if any(each is None or each.shape != shape for each in arrays):
        raise _not_perfusion(f"{name} is missing or has another shape")
    return torch.stack([torch.tensor(each, dtype=base.learner_dtype, device=base.device) for each in arrays])


def _gate(persona: Persona) -> tuple[float, float]:
    """beta and tau with which the persona is drawn."""
    gate = persona.settings.get("gate", DRAW_GATE)
    numbers = cast(Sequence[object], gate) if isinstance(gate, list | tuple) else ()
    values = [float(each) for each in numbers if isinstance(each, int | float)]
    if len(numbers) != 2 or len(values) != 2 or not 0 < values[1] < float("inf"):
        raise _not_perfusion(f"the gate {gate!r} is none")
    return values[0], values[1]


def _not_perfusion(why: str) -> Incompatible:
    return Incompatible(f"the persona's tensors are not those of Perfusion: {why}", "learn it again")


def _require_usable(settings: LearnSettings) -> None:
    """Raises UsageError for other bounds or another number of tokens."""
    assert settings.bounds is not None  # this method's own settings have them
    if settings.bounds != WHOLE:
        raise UsageError(
            f"Perfusion has no stages, so no bounds {settings.bounds.low}:{settings.bounds.high}",
            "leave the bounds out",
        )
    if settings.tokens != 1:
        raise UsageError(f"Perfusion learns one token, not {settings.tokens}", "leave the number of tokens out")
