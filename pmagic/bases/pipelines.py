"""Puts a base's stock pipeline together from its folder or its single file: each part by a class that is named here."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from pmagic.bases import kinds, model_config, single_file
from pmagic.bases.kinds import SDXL, Architecture
from pmagic.bases.model_spec import ModelSpec, suggest_restore
from pmagic.errors import Incompatible

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    StockPipeline = StableDiffusionPipeline | StableDiffusionXLPipeline

MODELS = ("text_encoder", "unet", "vae")  # of every base; see `models_of`
TIMESTEPS = 1000


def open_pipeline(spec: ModelSpec, dtype: torch.dtype, prepare_unet: Callable[[nn.Module], None]) -> "StockPipeline":
    """The stock pipeline of a base whose weights are here, complete or refused.

    prepare_unet: called with the UNet before the other parts are opened, which take memory, too.
    Raises Incompatible.
    """
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    # Each part is opened by a class that is named here. Opening the pipeline as a whole would import the classes that
    # model_index.json names, and would not report missing weights.
    folder = spec.local_folder
    architecture = kinds.architecture_of(folder)
    open_part = _open if spec.file is None else single_file.opener(spec.file)
    models: dict[str, Any] = {}
    for part in architecture.parts:
        models[part] = open_part(folder, part, _dtype_of(folder, part, architecture, dtype))
        if part == "unet":
            prepare_unet(models[part])
    if architecture is SDXL:
        make = cast("Callable[..., StockPipeline]", StableDiffusionXLPipeline)
        own = {"force_zeros_for_empty_prompt": kinds.zeros_for_empty(folder), "add_watermarker": False}
    else:
        # diffusers states its parts as required, and takes None for each of these three.
        make = cast("Callable[..., StockPipeline]", StableDiffusionPipeline)
        own = {"safety_checker": None, "requires_safety_checker": False}
    try:
        tokenizers = {each: _tokenizer(spec, each) for each in architecture.tokenizers}
        scheduler = _scheduler(folder, {} if spec.file is None else single_file.noise_of(spec.file))
        found = make(**models, **tokenizers, scheduler=scheduler, feature_extractor=None, image_encoder=None, **own)
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise Incompatible(f"the base in {spec.place} cannot be opened: {error}", suggest_restore(folder)) from error
    _check(found, spec.file or folder)
    return found


def models_of(pipeline: "StockPipeline") -> tuple[str, ...]:
    """The names of the pipeline's networks."""
    second = ("text_encoder_2",) if getattr(pipeline, "text_encoder_2", None) is not None else ()
    return (*MODELS, *second)


def _tokenizer(spec: ModelSpec, part: str) -> Any:
    """The tokenizer in a part of the base's folder; for most single files CLIP's, with the base's own padding."""
    from transformers import CLIPTokenizer

    folder = spec.local_folder
    if (folder / part).is_dir() or spec.file is None:
        return CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(spec.tokenizer_folder, local_files_only=True)
    tokenizer.pad_token = single_file.padding_of(spec.file, part) or tokenizer.eos_token
    return tokenizer


def _dtype_of(folder: Path, part: str, architecture: Architecture, dtype: torch.dtype) -> torch.dtype:
    """The type of a part's weights: `dtype`, save for an autoencoder whose configuration says that float16 overflows.

    In Stable Diffusion XL alone: the older autoencoders do not overflow, and have the same entry by diffusers' default.
    """
    if part != "vae" or architecture is not SDXL or dtype is not torch.float16:
        return dtype
    config = model_config.read_json(folder / part / "config.json")
    return torch.float32 if config.get("force_upcast", True) else dtype


def _scheduler(folder: Path, changed: Mapping[str, Any]) -> Any:
    """The base's own scheduler: a class of diffusers, with the number of timesteps of Stable Diffusion.

    changed: settings that replace those of its configuration.
    """
    import diffusers

    path = folder / "scheduler" / "scheduler_config.json"
    config = {**model_config.read_json(path), **changed}
    if config.get("num_train_timesteps") != TIMESTEPS:  # checked before tables of that length are made
        raise Incompatible(f"the base in {folder} was not trained on {TIMESTEPS} timesteps", "use another base")
    name = config.get("_class_name")
    if str(name).startswith("EDM"):  # noise of another scale, which the samplers cannot be made from
        raise Incompatible(f"the base in {folder} was trained with EDM's noise, which pmagic lacks", "use another base")
    kind = getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    if kind is None:
        raise Incompatible(f"{path} names no scheduler of diffusers: {str(name)[:80]!r}", "use another base")
    # A configuration also keeps settings of other schedulers, which rendering makes from it.
    kinds = (kind, *(getattr(diffusers, each.name) for each in diffusers.schedulers.KarrasDiffusionSchedulers))
    known = {key for each in kinds for key in inspect.signature(each.__init__).parameters}
    return kind.from_config({key: value for key, value in config.items() if key in known or key == "_class_name"})


def _open(folder: Path, part: str, dtype: torch.dtype) -> Any:
    """One model of the folder, complete or refused; read from half-precision files where there are no others."""
    import diffusers
    import transformers

    classes = {
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
        "unet": diffusers.UNet2DConditionModel,
    }
    kind = cast(Any, classes.get(part, diffusers.AutoencoderKL))
    if part.startswith("text_encoder"):
        config = model_config.read_config(folder / part, transformers.CLIPTextConfig)
        own = {"config": config, "attn_implementation": model_config.ATTENTION}
    else:
        model_config.require_plain(folder / part / "config.json", kind)
        own = {}
    names = [path.name for path in (folder / part).iterdir() if path.is_file()]
    try:
        with _uninitialized_embeddings():
            model, report = kind.from_pretrained(
                folder / part,
                dtype=dtype,
                variant=kinds.variant_of(names, part),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                low_cpu_mem_usage=False,
                **own,
            )
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise Incompatible(f"{folder / part} cannot be opened: {error}", suggest_restore(folder)) from error
    missing = [key for key in report["missing_keys"] if not key.endswith("position_ids")]
    if missing:
        raise Incompatible(
            f"{folder / part} lacks {len(missing)} weights ({missing[0]}, ...), which would be random",
            suggest_restore(folder),
        )
    return model


@contextmanager
def _uninitialized_embeddings() -> Iterator[None]:
    """While inside, new token embeddings hold no random numbers: the file's numbers follow, or the part is refused.

    transformers makes them on torch's meta device, where random numbers need a package for algebra, slow to import.
    """
    own = nn.Embedding.reset_parameters
    nn.Embedding.reset_parameters = lambda self: None
    try:
        yield
    finally:
        nn.Embedding.reset_parameters = own


def _check(pipeline: "StockPipeline", folder: Path) -> None:
    encoders = [getattr(pipeline, name) for name in models_of(pipeline) if name.startswith("text_encoder")]
    tokenizers = [pipeline.tokenizer, *([cast(Any, pipeline).tokenizer_2] if len(encoders) == 2 else [])]
    for tokenizer, text_encoder in zip(tokenizers, encoders, strict=True):
        if len(tokenizer) < text_encoder.config.vocab_size:
            raise Incompatible(
                f"the tokenizer in {folder} has {len(tokenizer)} tokens, its text encoder "
                f"{text_encoder.config.vocab_size}",
                "restore the folder's tokenizer (vocab.json and merges.txt, or tokenizer.json)",
            )
    width, wanted = sum(each.config.hidden_size for each in encoders), pipeline.unet.config.cross_attention_dim
    if width != wanted:
        which = "text encoder" if len(encoders) == 1 else "pair of text encoders"
        raise Incompatible(f"the {which} in {folder} is {width} wide, its UNet reads {wanted}", "use another base")
    if len(encoders) == 2:
        _check_pair(pipeline, folder)
    kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise Incompatible(f"the base in {folder} predicts {kind!r}, neither noise nor velocity", "use another base")
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise Incompatible(f"the UNet in {folder} reads more than latents (an inpainting model?)", "use another base")


def _check_pair(pipeline: "StockPipeline", folder: Path) -> None:
    """What the UNet of a Stable Diffusion XL reads besides the sentence; and that both tokenizers have the same words.

    The places of a persona's tokens are found once, for both.
    """
    first, second = pipeline.tokenizer, cast(Any, pipeline).tokenizer_2
    if first.get_vocab() != second.get_vocab():
        raise Incompatible(f"the two tokenizers in {folder} have different words", "restore the folder's tokenizers")
    config, pooled = pipeline.unet.config, cast(Any, pipeline).text_encoder_2.config.projection_dim
    if config.addition_embed_type != "text_time":
        raise Incompatible(f"the UNet in {folder} does not read a pooled sentence and sizes", "use another base")
    reads = config.projection_class_embeddings_input_dim
    sizes = 6 * config.addition_time_embed_dim
    if reads != pooled + sizes:
        raise Incompatible(
            f"the UNet in {folder} reads {reads} numbers besides the sentence, and not the {pooled} of a pooled "
            f"sentence and {sizes} of six sizes (a refiner?)",
            "use another base",
        )
