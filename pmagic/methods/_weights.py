"""The code shared by methods that train a base's weights: an embedding for the name, and a weight difference."""

# B batch . n placeholder tokens . w text width . e image embedding width

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pmagic.bases import memory_estimate
from pmagic.bases.loading import Base
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import composing, randomness, recipes, reweighting, token_batch, training
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
_RECORD = 80  # bytes per tensor in a persona's two files besides its values and, in both, its name
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
            self.register_buffer("name", name.detach())
        self.register_buffer("word", word.detach())

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
    method: str, own: Mapping[str, Any], recipe: str, base_defaults: Mapping[str, Any], **overrides: Any
) -> LearnSettings:
    """As recipes.settings_for, with the method's published values, overridden by those of the base's pmagic.toml.

    These are under [learn.METHOD], separate from the values that were measured for embeddings.
    """
    values = {**recipes.of_all(base_defaults), **own, **base_defaults.get("learn", {}).get(method, {})}
    return recipes.settings_for(recipe, {**base_defaults, "learn": values}, **overrides)


def rare_name(base: Base, seed: int) -> Tensor:
    """The embedding before the class word: (w,). It is the rare word's, or a random vector of the median norm."""
    table = base.pipeline.text_encoder.get_input_embeddings().weight.detach()
    ids = base.pipeline.tokenizer(RARE, add_special_tokens=False).input_ids
    if len(ids) == 1:
        return table[ids[0]].to(base.learner_dtype)
    vector = torch.randn(table.shape[1], generator=randomness.generator(seed, "rare name"))
    return (vector / vector.norm()).to(table.device, base.learner_dtype) * table.norm(dim=1).median().to(
        base.learner_dtype
    )


def learn(
    method: str,
    base: Base,
    subject: Subject,
    settings: LearnSettings,
    learner: WeightLearner,
    on_step: Callable[[StepReport], None],
    checkpoint: Path | None,
    finish: Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], Mapping[str, object]]] = lambda found: (found, {}),
) -> Persona:
    """Train the difference of the settings' weights, and the trainable part of the embedding.

    finish: turns the trained difference into the tensors that are stored, and returns additional settings for the
    persona's record. Raises the errors of `training.train`.
    """
    embedding = learner.embedding

    def make_persona(losses: Mapping[str, float]) -> Persona:
        persona = persona_of(method, base, subject, settings, embedding, losses)
        kept, about = finish(learner.difference.tensors())
        tensors = {**persona.tensors, **{name: each.cpu().numpy() for name, each in kept.items()}}
        if isinstance(embedding, Phrase):
            tensors.pop("learner.name", None)
            tensors[PHRASE] = embedding.name.detach().float().cpu().numpy()
        return replace(persona, tensors=tensors, settings={**persona.settings, **about})

    context = training.prepare_training(base, subject, settings)
    return make_persona(training.train(context, learner, report_persona(on_step, make_persona), checkpoint))


def make_learner(base: Base, settings: LearnSettings, embedding: nn.Module) -> WeightLearner:
    """An untrained difference of the settings' weights, with the name's embedding."""
    unet = base.pipeline.unet
    names = reweighting.select_names(unet, settings.weights)
    difference = WeightDifference(unet, names, _trained_rank(settings), settings.seed)
    return WeightLearner(embedding, difference, keeps_start=settings.weights in ("cross-kv", "cross"))


def rare_phrase(base: Base, subject: Subject, settings: LearnSettings, *, trained: bool) -> Phrase:
    """A rare name before the subject's class word."""
    word = token_batch.word_embedding(base, subject.word).to(base.learner_dtype)
    return Phrase(rare_name(base, settings.seed), word, trained=trained)


def count_weights(spec: ModelSpec, settings: LearnSettings) -> int:
    """The number of trained values of the difference. Raises Incompatible if the base's weights cannot be read."""
    return reweighting.count_values(memory_estimate.unet_shapes(spec), settings.weights, _trained_rank(settings))


def kept_bytes(spec: ModelSpec, settings: LearnSettings) -> int:
    """Bytes of the stored difference in float16, including the record of each tensor."""
    shapes = memory_estimate.unet_shapes(spec)
    names = reweighting.tensor_names(shapes, settings.weights, settings.rank)
    record = sum(2 * len(name) + _RECORD for name in names)
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
