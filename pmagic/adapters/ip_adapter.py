"""IP-Adapter (Ye et al. 2023): cross-attention reads tokens of a picture besides the text, in decoupled attention.

It reads the official files for Stable Diffusion 1.x and XL: `image_proj.*` makes tokens of a CLIP encoder's output, and
`ip_adapter.N.to_k_ip` and `to_v_ip` project them in each cross-attention, N = 1, 3, 5, ...
"""

# T image tokens . w text width . c a layer's width

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from pmagic.adapters._projections import HEAD, LAYOUTS, Classic, Full, Plus
from pmagic.bases.adapter_files import AdapterFiles
from pmagic.bases.loading import Base
from pmagic.engine.image_attention import Look, Projections, image_attention, make_look
from pmagic.engine.regions import Box
from pmagic.errors import Incompatible
from pmagic.vision import image_encoder

READS = "a picture, by tokens that every cross-attention reads besides the text"
SOURCE = "IP-Adapter (Ye et al., arXiv 2308.06721); pmagic's own code, Apache-2.0"

_PROJECTION, _ATTENTION = "image_proj.", "ip_adapter."


def recognizes(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether these are the tensors of an IP-Adapter."""
    return any(name.startswith(_PROJECTION) for name in shapes) and f"{_ATTENTION}1.to_k_ip.weight" in shapes


def encode(base: Base, files: AdapterFiles, pictures: Mapping[str, Sequence[Image.Image]]) -> Mapping[str, Look]:
    """The look of each name: the tokens of all its pictures, side by side, in every cross-attention.

    Raises Incompatible for an adapter of another base, for another image encoder, and for a file that is damaged.
    """
    order = _require_base(base, files)
    layout = _layout_of(files)
    _require_encoder(files, layout)
    tensors = files.read()
    projection = _network(files, layout, tensors)
    encoder = image_encoder.load(files.encoder, device=str(base.device))
    projection.to(base.device)
    weights = {
        name: tuple(
            tensors[f"{_ATTENTION}{2 * number + 1}.{each}.weight"].to(base.device, torch.float32)
            for each in ("to_k_ip", "to_v_ip")
        )
        for number, name in enumerate(order)
    }
    tokens = {name: _tokens(encoder, projection, several) for name, several in pictures.items()}
    return {name: make_look(cast(Projections, weights), each) for name, each in tokens.items()}


@contextmanager
def apply(
    base: Base, looks: Mapping[str, Look], scale: float, *, guided: bool, regions: Mapping[str, Box]
) -> Iterator[None]:
    """While inside, the base draws with the looks. Raises Incompatible for a look without a place among the regions."""
    astray = [name for name in looks if regions and name not in regions]
    if astray:
        raise Incompatible(f"the look of {astray[0]} has no place in the picture", "give it a region")
    places = [list(regions).index(name) for name in looks] if regions else []
    boxes = tuple(regions.values())
    unet = base.pipeline.unet
    with image_attention(unet, list(looks.values()), scale, guided=guided, boxes=boxes, places=places):
        yield


@torch.no_grad()
def _tokens(
    encoder: image_encoder.ImageEncoder, projection: Classic | Full | Plus, pictures: Sequence[Image.Image]
) -> Tensor:
    """The tokens of no picture, and those of all pictures side by side: (2, T, w).

    No picture is zeros for a projection that reads embeddings, and the states of a picture of zeros for the others.
    """
    if projection.reads_states:
        given, absent = encoder.states(pictures), encoder.states_of_zeros()
    else:
        given = encoder.projected(pictures)
        absent = torch.zeros_like(given[:1])
    nothing = projection(absent).repeat(1, len(pictures), 1)
    return torch.cat([nothing, projection(given).flatten(0, 1)[None]])


def cross_attention_order(unet: nn.Module) -> list[str]:
    """The cross-attentions in the order of the files' numbers: that of the UNet's attention processors."""
    processors: Mapping[str, object] = unet.attn_processors  # type: ignore[assignment]
    return [name.removesuffix(".processor") for name in processors if name.endswith("attn2.processor")]


def _require_base(base: Base, files: AdapterFiles) -> list[str]:
    """The order of the base's cross-attentions. Raises Incompatible if the adapter is not made for them."""
    unet = base.pipeline.unet
    order = cross_attention_order(unet)
    found = {name: shape for name, shape in files.shapes.items() if name.startswith(_ATTENTION)}
    modules = dict(unet.named_modules())
    wanted = {}
    for number, name in enumerate(order):
        for part in ("to_k", "to_v"):
            linear = cast(nn.Linear, modules[f"{name}.{part}"])
            wanted[f"{_ATTENTION}{2 * number + 1}.{part}_ip.weight"] = (linear.out_features, linear.in_features)
    if found != wanted:
        reads = found.get(f"{_ATTENTION}1.to_k_ip.weight", (0, 0))[-1]
        have, need = (len(each) // 2 for each in (found, wanted))
        raise Incompatible(
            f"the adapter {files.name} was trained for another base: it has {have} cross-attentions that read {reads} "
            f"numbers a token, and {base.name} has {need} that read {unet.config.cross_attention_dim}",
            "use an adapter for this base: `pmagic models list` shows which base each is for",
        )
    return order


def _layout_of(files: AdapterFiles) -> type[Classic | Full | Plus]:
    names = {name.removeprefix(_PROJECTION) for name in files.shapes if name.startswith(_PROJECTION)}
    for name, layout in LAYOUTS.items():
        if name in names:
            return layout
    kind = "an IP-Adapter FaceID, which reads the face recogniser of insightface" if "norm.weight" in names else ""
    raise Incompatible(
        f"the adapter {files.name} is {kind or 'an IP-Adapter of a layout that pmagic does not know'}",
        "use ip-adapter, ip-adapter-plus, ip-adapter-plus-face or ip-adapter-full-face",
    )


def _projection_shapes(files: AdapterFiles) -> dict[str, tuple[int, ...]]:
    return {
        name.removeprefix(_PROJECTION): shape for name, shape in files.shapes.items() if name.startswith(_PROJECTION)
    }


def _require_encoder(files: AdapterFiles, layout: type[Classic | Full | Plus]) -> None:
    """Raises Incompatible for an encoder whose output is not as wide as what the adapter reads."""
    projected, states = image_encoder.widths(files.encoder)
    gives = states if layout.reads_states else projected
    reads = _make(files, layout).width_in
    if reads != gives:
        what = "states" if layout.reads_states else "an embedding"
        raise Incompatible(
            f"the adapter {files.name} reads {what} {reads} wide, and the image encoder in {files.encoder} gives "
            f"{gives}: it is another encoder than the adapter was trained with",
            "put the adapter's own image encoder there",
        )


def _make(files: AdapterFiles, layout: type[Classic | Full | Plus]) -> Classic | Full | Plus:
    """The untrained network of the file, without memory for its weights. Raises Incompatible for other shapes."""
    shapes = _projection_shapes(files)
    try:
        with torch.device("meta"):
            made = layout(shapes)
        wanted = {name: tuple(each.shape) for name, each in made.state_dict().items()}
        if wanted != shapes:
            raise ValueError(f"its tensors are not those of {layout.__name__.lower()}")
        if layout is Plus and shapes["layers.0.0.to_q.weight"][0] % HEAD:
            raise ValueError(f"its heads are not {HEAD} wide")
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise Incompatible(
            f"the adapter {files.name} cannot be read: {error}", "fetch or copy the file again"
        ) from error
    return made


def _network(
    files: AdapterFiles, layout: type[Classic | Full | Plus], tensors: Mapping[str, Tensor]
) -> Classic | Full | Plus:
    """The network of the file with its weights, in float32."""
    made = _make(files, layout)
    own = {name.removeprefix(_PROJECTION): each.float() for name, each in tensors.items() if _PROJECTION in name}
    made.load_state_dict(own, assign=True)
    return made.requires_grad_(False).eval()
