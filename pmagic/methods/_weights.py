"""The code shared by methods that train a base's weights: an embedding for the name, and a weight difference."""

# B batch . n placeholder tokens . w text width . e image embedding width

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pmagic.bases import memory_estimate
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import (
    augmentation,
    composing,
    joint_training,
    randomness,
    recipes,
    reweighting,
    token_batch,
    training,
)
from pmagic.engine.checkpoint import digest
from pmagic.engine.composing import EmbeddingSchedule, LearnedTokens
from pmagic.engine.conditioning import clip_text_model
from pmagic.engine.hooks import exchanged_parameters
from pmagic.engine.recipes import LearnSettings
from pmagic.engine.reweighting import WeightDifference
from pmagic.engine.subject import Subject
from pmagic.engine.training import StepReport
from pmagic.errors import Incompatible
from pmagic.methods import persona_of, report_persona, require_base
from pmagic.persona import Persona

RARE = "sks"  # the word before the class word; if it is not one token, a vector takes its place
MORE_RARE = ("ktn", "pll", "ucd")  # the same for the further subjects of joint training, in Custom Diffusion's order
RECORD = 80  # bytes per tensor in a persona's two files besides its values and, in both, its name
PHRASE = "phrase.name"  # key in a persona's tensors of the vector before the class word, (w,)


class Phrase(nn.Module):
    """A name before the class word: the same two tokens (B, 2, w) for all t and photos. Only the name is trainable."""

    def __init__(self, name: Tensor, word: Tensor, *, trained: bool) -> None:
        super().__init__()
        self.name: Tensor
        self.word: Tensor
        if trained:
            self.name = nn.Parameter(name.detach().clone())
        else:
            self.register_buffer("name", name.detach(), persistent=False)
        self.register_buffer("word", word.detach(), persistent=False)

    def forward(self, t: Tensor, image_embedding: Tensor) -> tuple[Tensor, None]:
        return torch.stack([self.name, self.word]).expand(len(t), -1, -1), None


class WeightLearner(nn.Module):
    """The name's embedding and the difference of the UNet's weights, which are trained together."""

    def __init__(self, embedding: nn.Module, difference: WeightDifference, *, keeps_start: bool) -> None:
        """keeps_start: whether the first text position gets no gradient (see without_start_gradient)."""
        super().__init__()
        self.embedding, self.difference, self.keeps_start = embedding, difference, keeps_start

    def forward(self, t: Tensor, image_embedding: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.embedding(t, image_embedding)

    @contextmanager
    def apply_to(self, unet: nn.Module) -> Iterator[None]:
        """While inside, the UNet computes with W0 + D, and gradients flow to D."""
        weights = self.difference.weights()
        cut = weights if self.keeps_start else ()
        with exchanged_parameters(unet, weights), reweighting.without_start_gradient(unet, cut):
            yield

    def groups(self, settings: LearnSettings) -> list[dict[str, Any]]:
        """The optimizer's groups: the difference at `learning_rate`, the name's embedding at `token_rate` if set."""
        own = list(self.embedding.parameters())
        groups: list[dict[str, Any]] = [{"params": list(self.difference.parameters())}]
        if own:
            groups.append({"params": own, "lr": settings.token_rate or settings.learning_rate})
        return groups


def settings_for(
    method: str,
    own: Mapping[str, Any],
    recipe: str,
    base_defaults: Mapping[str, Any],
    *,
    with_prior: Mapping[str, Any] = MappingProxyType({}),
    **overrides: Any,
) -> LearnSettings:
    """As recipes.settings_for, with the method's published values, overridden by those of the base's pmagic.toml.

    These are under [learn.METHOD], separate from the values that were measured for embeddings. with_prior: the
    published values that are others with class pictures.
    """
    of_base = base_defaults.get("learn", {}).get(method, {})
    values = {**recipes.of_all(base_defaults), **own, **of_base}
    if wants_prior(values, overrides):
        values = {**values, **with_prior, **of_base}
    if "templates" in values and overrides.get("kind") != "style":  # its own prompts fit every kind but a style
        overrides = {"templates": values["templates"], **overrides}
    return recipes.settings_for(recipe, {**base_defaults, "learn": values}, **overrides)


def wants_prior(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Whether class pictures are used: the override counts, if there is one."""
    asked = overrides.get("prior")
    return bool(values.get("prior", 0) if asked is None else asked)


def rare_name(base: Base, seed: int, number: int = 0) -> Tensor:
    """The embedding before the class word: (w,). It is a rare word's, or a random vector of the median norm.

    number: of the subject in joint training, where each has another name. Two text encoders have one vector each, side
    by side.
    """
    words = [RARE, *MORE_RARE][number : number + 1]
    ids = base.pipeline.tokenizer(words[0], add_special_tokens=False).input_ids if words else []
    source = randomness.generator(seed, "rare name", number)
    parts = []
    for text_encoder in base.text_encoders:
        table = token_batch.embedding_table(text_encoder)
        if len(ids) == 1:
            parts.append(table[ids[0]].to(base.learner_dtype))
            continue
        vector = torch.randn(table.shape[1], generator=source)
        length = table.norm(dim=1).median().to(base.learner_dtype)
        parts.append((vector / vector.norm()).to(table.device, base.learner_dtype) * length)
    return torch.cat(parts)


def learn(
    method: str,
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    learner: WeightLearner,
    on_step: Callable[[StepReport], None],
    checkpoint: Path | None,
) -> Persona:
    """Train the difference of the settings' weights, and the trainable part of the embedding.

    A full difference is stored with the settings' rank, and the share of it that this loses is in the record.
    Raises the errors of `training.train`.
    """

    def make_persona(losses: Mapping[str, float]) -> Persona:
        return _persona(method, base, subject, settings, learner, losses)

    context = _prepare(base, subject, settings)
    return make_persona(training.train(context, learner, report_persona(on_step, make_persona), checkpoint))


def learn_together(
    method: str,
    base: Base,
    subjects: Sequence[Subject],
    settings: Sequence[LearnSettings],
    embeddings: Sequence[nn.Module],
    on_step: Callable[[StepReport], None],
    checkpoint: Path | None,
) -> list[Persona]:
    """Train one difference for all subjects, with an embedding for each. Every persona holds the whole difference.

    So each can be drawn, copied, exported and removed alone. Applied together, equal differences count once.
    Raises the errors of `training.train`.
    """
    shared = make_learner(base, settings[0], embeddings[0])
    learners = [
        shared, *(WeightLearner(each, shared.difference, keeps_start=shared.keeps_start) for each in embeddings[1:])
    ]  # fmt: skip
    contexts = [_prepare(base, *each) for each in zip(subjects, settings, strict=True)]
    losses = joint_training.train(contexts, learners, on_step, checkpoint)
    together = digest([], shared.difference.tensors())[:16]
    personas = [_persona(method, base, *each) for each in zip(subjects, settings, learners, losses, strict=True)]
    return [replace(each, settings={**each.settings, "together": together}) for each in personas]


def _prepare(base: Base, subject: Subject, settings: LearnSettings) -> training.TrainingContext:
    """The training context, on views of the photos if the settings ask for them."""
    shown = augmentation.augmented(base, subject, settings.seed) if settings.augment else subject
    return training.prepare_training(base, shown, settings)


def _persona(
    method: str,
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    learner: WeightLearner,
    losses: Mapping[str, float],
) -> Persona:
    """The persona of the learner's present state: its embedding in float32, its difference in float16."""
    persona = persona_of(method, base, subject, settings, learner.embedding, losses)
    kept, about = learner.difference.tensors(), {}
    if settings.rank and not _trained_rank(settings):
        kept, lost = reweighting.compress(kept, settings.rank)
        about = {"lost_to_rank": lost}
    tensors = {**persona.tensors, **{name: each.cpu().numpy() for name, each in kept.items()}}
    if isinstance(learner.embedding, Phrase):
        tensors.pop("learner.name", None)
        tensors[PHRASE] = learner.embedding.name.detach().float().cpu().numpy()
    return replace(persona, tensors=tensors, settings={**persona.settings, **about})


def make_learner(base: Base, settings: LearnSettings, embedding: nn.Module) -> WeightLearner:
    """An untrained difference of the settings' weights, with the name's embedding."""
    unet = base.pipeline.unet
    names = reweighting.select_names(unet, settings.weights)
    difference = WeightDifference(unet, names, _trained_rank(settings), settings.seed)
    return WeightLearner(embedding, difference, keeps_start=settings.weights in ("cross-kv", "cross"))


def rare_phrase(base: Base, subject: Subject, settings: LearnSettings, *, trained: bool, number: int = 0) -> Phrase:
    """A rare name before the subject's class word. number: as in rare_name."""
    word = token_batch.word_embedding(base, subject.word).to(base.learner_dtype)
    return Phrase(rare_name(base, settings.seed, number), word, trained=trained)


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The number of trained values of the difference. Raises Incompatible if the base's weights cannot be read."""
    return reweighting.count_values(memory_estimate.unet_shapes(spec), settings.weights, _trained_rank(settings))


def kept_bytes(spec: ModelSpec, settings: LearnSettings) -> int:
    """Bytes of the stored difference in float16, including the record of each tensor."""
    shapes = memory_estimate.unet_shapes(spec)
    names = reweighting.tensor_names(shapes, settings.weights, settings.rank)
    record = sum(2 * len(name) + RECORD for name in names)
    return 2 * reweighting.count_values(shapes, settings.weights, settings.rank) + record


def _trained_rank(settings: LearnSettings) -> int:
    """The rank in training: LoRA trains the factors; for other methods, a rank only compresses the full difference."""
    return settings.rank if settings.weights == "attention" else 0


@contextmanager
def apply_weights(
    base: Base, personas: Sequence[Persona], schedule: Callable[[Base, Persona], EmbeddingSchedule]
) -> Iterator[list[EmbeddingSchedule]]:
    """While inside, the sum of the personas' differences is applied: to the UNet, and to the text encoder.

    Raises Incompatible for a persona of another base.
    """
    schedules = [schedule(base, each) for each in personas]
    tensors = [each.tensors for each in personas]
    unet, text_encoder = base.pipeline.unet, clip_text_model(base.pipeline.text_encoder)
    weights = reweighting.sum_weights(unet, tensors)
    text_weights = reweighting.sum_weights(text_encoder, tensors, prefix=reweighting.TEXT_PREFIX)
    with exchanged_parameters(unet, weights), exchanged_parameters(text_encoder, text_weights):
        yield schedules


def phrase_of(base: Base, persona: Persona) -> EmbeddingSchedule:
    """The persona's name before its class word, at every timestep.

    Raises Incompatible for a persona of another base or another method.
    """
    require_base(base, persona)
    name = persona.tensors.get(PHRASE)
    word = token_batch.word_embedding(base, persona.word).to(base.learner_dtype)
    if name is None or name.shape != tuple(word.shape):
        raise Incompatible(f"the persona's tensors are not those of {persona.method}", "learn it again")
    tokens = torch.stack([torch.tensor(name, dtype=base.learner_dtype, device=base.device), word])
    return composing.constant_schedule(LearnedTokens(tokens, residual=None))
