"""Single files of weights, with the names of Stable Diffusion's first authors, from the folders of tiny bases.

Each name is translated back by a rule; what comes out is read by diffusers' own translation in the tests.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pmagic.bases import loading

_RESNET = {
    "norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1.", "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection.",
}  # fmt: skip
_UNET = {
    "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.", "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.", "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.", "add_embedding.linear_2.": "label_emb.0.2.",
}  # fmt: skip
_VAE = {
    "mid_block.resnets.0.": "mid.block_1.", "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.", "group_norm.": "norm.", "to_q.": "q.", "to_k.": "k.", "to_v.": "v.",
    "to_out.0.": "proj_out.", "conv_shortcut.": "nin_shortcut.", "conv_norm_out.": "norm_out.",
    "downsamplers.0.": "downsample.", "upsamplers.0.": "upsample.",
}  # fmt: skip
_OPENCLIP = {
    "encoder.layers.": "transformer.resblocks.", "layer_norm1.": "ln_1.", "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.", "mlp.fc2.": "mlp.c_proj.", "self_attn.out_proj.": "attn.out_proj.",
    "final_layer_norm.": "ln_final.", "embeddings.token_embedding.": "token_embedding.",
    "embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip


def save(base: loading.Base, path: Path, *, open_clip: bool = False, half: bool = False) -> Path:
    """Write the base's weights as one file. open_clip: the first text encoder under the names of SD 2.x."""
    pipeline = base.pipeline
    weights = {f"model.diffusion_model.{name}": each for name, each in unet(pipeline.unet).items()}
    weights |= {f"first_stage_model.{name}": each for name, each in vae(pipeline.vae).items()}
    first = pipeline.text_encoder
    if base.reads_pooled:
        weights |= _clip("conditioner.embedders.0.transformer.", first)
        weights |= _open_clip("conditioner.embedders.1.model.", pipeline.text_encoder_2)
    elif open_clip:
        weights |= _open_clip("cond_stage_model.model.", first)
    else:
        weights |= _clip("cond_stage_model.transformer.", first)
    weights = {name: (each.half() if half else each).contiguous().clone() for name, each in weights.items()}
    save_file(weights, path)
    return path


def unet(network: nn.Module) -> dict[str, Tensor]:
    layers = network.config.layers_per_block
    found = {}
    for name, weight in network.state_dict().items():
        block = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
        middle = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
        if middle is not None:
            kind, k, rest = middle.groups()
            found[f"middle_block.{2 * int(k) if kind == 'resnets' else 1}.{_changed(rest, kind)}"] = weight
        elif block is not None:
            found[_in_block(network, layers, *block.groups())] = weight
        else:
            found[_replaced(name, _UNET)] = weight
    return found


def _in_block(network: nn.Module, layers: int, way: str, block: str, kind: str, k: str, rest: str) -> str:
    if way == "down":
        number = int(block) * (layers + 1) + 1 + (layers if kind == "downsamplers" else int(k))
        part = "1" if kind == "attentions" else "0"
        rest = rest.replace("conv.", "op.", 1) if kind == "downsamplers" else _changed(rest, kind)
        return f"input_blocks.{number}.{part}.{rest}"
    attends = "CrossAttn" in network.config.up_block_types[int(block)]
    number = int(block) * (layers + 1) + (layers if kind == "upsamplers" else int(k))
    part = {"resnets": "0", "attentions": "1", "upsamplers": "2" if attends else "1"}[kind]
    return f"output_blocks.{number}.{part}.{_changed(rest, kind)}"


def vae(network: nn.Module) -> dict[str, Tensor]:
    last = len(network.config.block_out_channels) - 1
    found = {}
    for name, weight in network.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
        for old, new in (("resnets.", "block."), ("", "")):
            name = re.sub(rf"up_blocks\.(\d+)\.{old}", lambda each, new=new: f"up.{last - int(each[1])}.{new}", name)
        name = _replaced(name, _VAE)
        attention = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        found[name] = weight[:, :, None, None] if attention else weight  # these were convolutions
    return found


def _clip(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    names = ((name.removeprefix("text_model."), weight) for name, weight in network.state_dict().items())
    return {f"{prefix}text_model.{name}": weight for name, weight in names}


def _open_clip(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    weights = {name.removeprefix("text_model."): each for name, each in network.state_dict().items()}
    found = {}
    for name, weight in weights.items():
        if ".q_proj." in name:
            whole = torch.cat([weights[name.replace("q_proj", each)] for each in ("q_proj", "k_proj", "v_proj")])
            layer, kind = re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", name).groups()
            found[f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{kind}"] = whole
        elif name == "text_projection.weight":
            found[f"{prefix}text_projection"] = weight.T
        elif not re.search(r"\.[kv]_proj\.|position_ids", name):
            found[prefix + _replaced(name, _OPENCLIP)] = weight
    return found


def _changed(rest: str, kind: str) -> str:
    return _replaced(rest, _RESNET) if kind == "resnets" else rest


def _replaced(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        name = re.sub(rf"(^|\.){re.escape(old)}", lambda each, new=new: each[1] + new, name)
    return name
