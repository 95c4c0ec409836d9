"""Exporting: a persona's differences of weights as a LoRA file, by the names of diffusers (peft) or kohya's programs.

A LoRA holds two factors for each matrix and nothing else. Of what a persona has besides, the loss is measured, or the
persona is refused.
"""

# o, i output and input features of a weight . r rank . k side of a kernel

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from pmagic.bases import memory_estimate
from pmagic.bases.model_spec import ModelSpec
from pmagic.engine import prompts
from pmagic.engine.lora_import import TRIGGER
from pmagic.engine.reweighting import DOWN, PREFIX, TEXT_PREFIX, UP
from pmagic.errors import Incompatible
from pmagic.persona import Persona

KEPT = 0.999  # the share of |D|^2 that the factors of a full difference keep at least
_WEIGHT = ".weight"
_PARTS = {PREFIX: "unet.", TEXT_PREFIX: "text_encoder.text_model."}
_EMBEDDINGS = "embeddings.token_embedding.weight"


@dataclass(frozen=True)
class Exported:
    """tensors: factors by peft's names. lost: the share of |D|^2 that they do not hold. left_out: names of weights."""

    tensors: Mapping[str, Tensor]
    lost: float
    left_out: tuple[str, ...]
    ranks: tuple[int, int]  # the least and the largest


def export_lora(persona: Persona, spec: ModelSpec) -> Exported:
    """The differences of a persona as factors. A full difference gets the least rank that keeps 99.9 % of its square.

    Raises Incompatible for a persona that is more than differences of weights, or of weights that the base lacks.
    """
    require_differences(persona)
    shapes = {PREFIX: memory_estimate.unet_shapes(spec), TEXT_PREFIX: memory_estimate.text_shapes(spec)}
    tensors: dict[str, Tensor] = {}
    whole = lost = 0.0
    left_out: list[str] = []
    for full, array in persona.tensors.items():
        prefix = next((each for each in _PARTS if full.startswith(each)), None)
        if prefix is None or full.endswith(DOWN):
            continue
        name = full.removeprefix(prefix).removesuffix(UP)
        shape = shapes[prefix].get(name)
        if shape is None:
            raise Incompatible(f"the base has no weight {name!r}", "use the base that it was learned on")
        if full.endswith(UP):
            up, down = torch.from_numpy(array), torch.from_numpy(persona.tensors[f"{prefix}{name}{DOWN}"])
            square = (up.double() @ down.double()).square().sum().item()
        else:
            difference = torch.from_numpy(array).double()
            square = difference.square().sum().item()
            if len(shape) < 2 or not name.endswith(_WEIGHT):
                left_out.append(name)
                whole, lost = whole + square, lost + square
                continue
            up, down = factors(difference.flatten(1), KEPT)
            up, down = up.to(torch.float16), down.to(torch.float16)
            lost += (difference.flatten(1) - up.double() @ down.double()).square().sum().item()
        whole += square
        module = _PARTS[prefix] + name.removesuffix(_WEIGHT)
        tensors[f"{module}.lora_A.weight"] = down.reshape(-1, *shape[1:]).contiguous()
        tensors[f"{module}.lora_B.weight"] = up.reshape(*up.shape, *(1,) * (len(shape) - 2)).contiguous()
    ranks = [len(each) for name, each in tensors.items() if ".lora_A." in name]
    return Exported(tensors, lost / whole if whole else 0.0, tuple(left_out), (min(ranks), max(ranks)))


def require_differences(persona: Persona) -> None:
    """Raises Incompatible for a persona that is embeddings, which a LoRA cannot hold."""
    if not any(name.startswith(tuple(_PARTS)) for name in persona.tensors):
        raise Incompatible(
            f"a persona of {persona.method} changes no weights of the base, and a LoRA holds nothing else",
            "export it without --format, or learn it again with --method lora",
        )
    if any(name.startswith("learner.") for name in persona.tensors):
        raise Incompatible(
            f"a persona of {persona.method} is also embeddings that change with the timestep, which a LoRA cannot hold",
            "export it without --format, or learn it again with --method lora",
        )


def factors(difference: Tensor, kept: float) -> tuple[Tensor, Tensor]:
    """up (o, r) and down (r, i) of the least rank r >= 1 with |up down|^2 >= kept |difference|^2."""
    left, values, right = torch.linalg.svd(difference, full_matrices=False)
    shares = values.square().cumsum(0)
    rank = min(1 + int((shares < kept * shares[-1]).sum()), len(values))
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def word_of(persona: Persona, name: str, rare: str, vector: np.ndarray | None, spec: ModelSpec) -> tuple[str, bool]:
    """The words that call the LoRA up, and whether `name` in them needs the embedding `vector` in a file of its own.

    rare: the word that methods put before the class word. vector: (w,), what the persona has there; None for a persona
    whose words are all of the base's vocabulary.
    """
    if vector is None:
        return persona.word, False
    known = _embedding(rare, spec)
    if known is not None and np.allclose(known, vector, rtol=1e-2, atol=1e-4):
        return f"{rare} {persona.word}", False
    return f"<{name}> {persona.word}", True


def _embedding(word: str, spec: ModelSpec) -> np.ndarray | None:
    """The base's own embedding (w,) of a word; None for a word of several tokens."""
    ids = prompts.load_tokenizer(spec.local_folder)(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        return None
    for path in sorted((spec.local_folder / "text_encoder").glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, not a mapping
                if name.endswith(_EMBEDDINGS):
                    return file.get_slice(name)[ids[0]].float().numpy()
    return None


def lora_bytes(exported: Exported, form: str, words: str | None) -> bytes:
    """The file, "peft" or "kohya". Its header has the words that call it up, if they need no other file."""
    tensors = dict(exported.tensors)
    if form == "kohya":
        from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

        tensors = convert_state_dict_to_kohya(tensors)
        # diffusers names the one text encoder as SDXL's first.
        tensors = {name.replace("lora_te1_", "lora_te_"): tensor for name, tensor in tensors.items()}
    metadata = {"software": "pmagic"} if words is None else {"software": "pmagic", TRIGGER: words}
    return safetensors.torch.save(tensors, metadata)


def word_bytes(name: str, vector: np.ndarray) -> bytes:
    """A textual inversion of one token, `<name>`, as diffusers' load_textual_inversion reads it."""
    return safetensors.torch.save({f"<{name}>": torch.from_numpy(vector).float()[None]})
