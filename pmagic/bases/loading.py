"""Opens an unmodified Stable Diffusion, from a folder of diffusers or a single file: frozen, without a network."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from pmagic import settings
from pmagic.bases import kinds
from pmagic.bases.light_imports import import_models
from pmagic.bases.model_spec import ModelSpec, require_weights
from pmagic.bases.offline import offline
from pmagic.bases.pipelines import models_of, open_pipeline
from pmagic.errors import UsageError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from pmagic.bases.pipelines import StockPipeline

DTYPES = {name: getattr(torch, name) for name in settings.NUMBER_TYPES}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base model in memory: an unmodified, frozen pipeline and its origin."""

    name: str
    pipeline: "StockPipeline"
    spec: ModelSpec
    fingerprint: str
    weights_dtype: torch.dtype  # of the base; also the type of the UNet's inputs and outputs
    compute_dtype: (
        torch.dtype | None
    )  # the UNet and the identity loss's decoder compute in it, None: in `weights_dtype`
    fp32_norms: bool = False  # whether norms stay out of `compute_dtype`, so that autocast must cast between the two
    compiled: bool = False  # whether training steps use a compiled UNet; nothing else does

    @property
    def device(self) -> torch.device:
        return next(self.pipeline.unet.parameters()).device  # diffusers' own property walks all modules: 3 ms a call

    def autocast(self) -> torch.autocast:
        """The context in which to call a network whose weights are in `compute_dtype`."""
        return torch.autocast(
            self.device.type,
            dtype=self.compute_dtype or torch.bfloat16,
            enabled=self.compute_dtype is not None and self.fp32_norms,
        )

    @contextmanager
    def tf32(self) -> Iterator[None]:
        """While inside, a GPU with a compute_dtype multiplies float32 matrices in TF32, as its convolutions do.

        TF32 multiplies with 10 bits of the mantissa, three more than bfloat16, and adds with all 23.
        """
        matmul = torch.backends.cuda.matmul
        before = matmul.allow_tf32
        matmul.allow_tf32 = before or (self.compute_dtype is not None and not self.fp32_norms)
        try:
            yield
        finally:
            matmul.allow_tf32 = before

    @property
    def computes_in(self) -> str:
        """The name of the type in which nearly all arithmetic is done."""
        return str(self.compute_dtype or self.weights_dtype).removeprefix("torch.")

    @property
    def learner_dtype(self) -> torch.dtype:
        """The type of the mapper, the optimizer and the losses: float32, or float64 on a float64 base."""
        return torch.promote_types(torch.float32, self.weights_dtype)

    @property
    def text_encoders(self) -> "tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]":
        """One, or the two of Stable Diffusion XL; cross-attention reads their features side by side."""
        second = getattr(self.pipeline, "text_encoder_2", None)
        return (self.pipeline.text_encoder,) if second is None else (self.pipeline.text_encoder, second)

    @property
    def tokenizers(self) -> "tuple[CLIPTokenizer, ...]":
        """One for each text encoder. They have one vocabulary, and pad with different tokens."""
        second = getattr(self.pipeline, "tokenizer_2", None)
        return (self.pipeline.tokenizer,) if second is None else (self.pipeline.tokenizer, second)

    @property
    def text_widths(self) -> tuple[int, ...]:
        """The width of each text encoder's embeddings."""
        return tuple(each.config.hidden_size for each in self.text_encoders)

    @property
    def reads_pooled(self) -> bool:
        """Whether it is a Stable Diffusion XL: its UNet also reads a pooled sentence and the picture's size.

        Its text encoders are read before their last layer.
        """
        return len(self.text_encoders) == 2

    @property
    def decoder_dtype(self) -> torch.dtype | None:
        """The type in which a copy of the decoder computes faces; None: in the autoencoder's own.

        The autoencoder of Stable Diffusion XL overflows in float16.
        """
        return None if self.reads_pooled and self.compute_dtype is torch.float16 else self.compute_dtype

    @property
    def size(self) -> int:
        """The side in pixels of the square pictures that the base was trained on."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor


def load(spec: ModelSpec, *, device: str = "auto", dtype: str = "auto") -> Base:
    """Open a base; its weights require no gradient.

    dtype: "auto" keeps weights in float32, but the UNet's in bfloat16 where the hardware multiplies it (a GPU without
    it gets float16); on a CPU its norms stay in float32. An autoencoder that overflows in float16 stays in float32.
    Raises WeightsMissing, or Incompatible for a folder that holds code, lacks weights or a tokenizer, or is not a
    Stable Diffusion that predicts noise or velocity.
    """
    require_weights(spec)
    weights = DTYPES.get("float32" if dtype == "auto" else dtype)
    if weights is None:
        raise UsageError(f"there is no number type {dtype!r}", f"choose one of: auto, {', '.join(DTYPES)}")
    place = find_device(device)
    compute, fp32_norms = find_compute_dtype(place) if dtype == "auto" else None, place.type == "cpu"

    def cast_unet(unet: nn.Module) -> None:
        if compute is not None:
            cast_network(unet, compute, fp32_norms=fp32_norms)

    with quiet_libraries():
        pipeline = open_pipeline(spec, weights, cast_unet)
    for name in models_of(pipeline):
        getattr(pipeline, name).requires_grad_(False).eval().to(place)
    if weights is not torch.float64:
        pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    if compute is not None and fp32_norms:
        from pmagic.bases.processors import CheapBackward

        pipeline.unet.set_attn_processor(CheapBackward())
    return Base(
        name=spec.title,
        pipeline=pipeline,
        spec=spec,
        fingerprint=fingerprint_of(spec),
        weights_dtype=weights,
        compute_dtype=compute,
        fp32_norms=fp32_norms,
    )


def fingerprint_of(spec: ModelSpec) -> str:
    """The fingerprint of a base whose weights are here: see `fingerprint`.

    Of a single file: SHA-256 over its content and that of its configurations.
    """
    if spec.file is None:
        return fingerprint(spec.local_folder)
    with spec.file.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(f"single file\n{content}\n{fingerprint(spec.local_folder)}\n".encode()).hexdigest()


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of the weight files, tokenizer and configurations, in name order."""
    total = hashlib.sha256()
    for path in _identity_files(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\n{content}\n".encode())
    return total.hexdigest()


def file_stamps(spec: ModelSpec) -> tuple[tuple[str, int, int, int], ...]:
    """Path, inode, size and time of change of what `fingerprint_of` reads: the same while nobody writes the files."""
    paths = [*_identity_files(spec.local_folder), *([] if spec.file is None else [spec.file])]
    stats = [(str(path), path.stat()) for path in paths]
    return tuple((name, each.st_ino, each.st_size, each.st_ctime_ns) for name, each in stats)


def weights_hash(pipeline: "StockPipeline") -> str:
    """SHA-256 over every parameter and buffer in memory: if it changes, something wrote to the base."""
    total = hashlib.sha256()
    for name in models_of(pipeline):
        for key, tensor in sorted(getattr(pipeline, name).state_dict().items()):
            total.update(f"{name}.{key}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _identity_files(folder: Path) -> list[Path]:
    names = [folder / "scheduler" / "scheduler_config.json"]
    architecture = kinds.architecture_of(folder)
    for part in (*architecture.parts, *architecture.tokenizers):
        if (folder / part).is_dir():  # the configurations of a single file have no tokenizers
            names += [p for p in (folder / part).iterdir() if p.suffix in {".safetensors", ".json", ".txt"}]
    return sorted(path for path in names if path.is_file())


def find_device(name: str) -> torch.device:
    """The device of that name, or the fastest one for "auto". Raises UsageError."""
    name = name.lower()
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    settings.check_device(name)
    try:
        place = torch.device(name)
        torch.ones(1, device=place).item()  # "meta" is a device, but cannot hold numbers
    except Exception as error:  # each backend raises its own exceptions
        raise UsageError(f"the device {name!r} is not on this machine{_in_short(error)}", "use --device cpu") from error
    return place


def _in_short(error: Exception) -> str:
    """torch's reason, if it is one short line; for a missing backend it is a list of 50 lines."""
    text = str(error).strip()
    return f": {text}" if text and len(text) <= 120 and "\n" not in text else ""


def find_compute_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it; emulated it is much slower than float32.

    The processor decides, not a timing: timings vary between runs, and the learned weights would vary with them.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return None


def cast_network(network: nn.Module, dtype: torch.dtype, *, fp32_norms: bool) -> None:
    """Casts the weights of `network` to `dtype`, for inputs of that type and calls inside `Base.autocast` only.

    fp32_norms: norms keep their type, as on a CPU, whose norms accept mixed types; the results then equal those of
    autocast, which would cast the frozen weights again in every call. On a GPU norms are cast, too: autocast would
    compute each in float32, with a cast before and after it.
    """
    parts = [part for part in network.modules() if isinstance(part, nn.Linear | nn.Conv2d)] if fp32_norms else [network]
    for part in parts:
        nn.Module.to(part, dtype)  # diffusers' own `to` warns of float32 modules even where there are none


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """While inside, the libraries show no progress bars, log only errors and use no network.

    Warnings that matter are checked here instead.
    """
    import_models()
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with offline(), warnings.catch_warnings():
            # The pipeline corrects an old scheduler configuration, and so does engine.schedulers.
            warnings.filterwarnings("ignore", "The configuration file of this scheduler", FutureWarning)
            yield
    finally:
        for library, verbosity in zip((diffusers_logging, transformers_logging), before, strict=True):
            library.set_verbosity(verbosity)
            library.enable_progress_bar()
