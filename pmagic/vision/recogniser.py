"""The pack's face recogniser as a torch module, so that a loss can use its gradient, and a differentiable alignment.

The graph and its weights are read from the pack's ONNX file and executed node by node: residual networks of all layouts
consist of a dozen kinds of nodes. Nothing is converted on disk.
"""

# B batch . E embedding width . H, W picture height and width

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pmagic.errors import Incompatible
from pmagic.vision import faces

SIDE = 112  # pixels, the side of a recogniser's square input
# insightface's positions of the five landmarks in that square: left eye, right eye, nose, mouth corners (x, y).
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))


def align(pixels: Tensor, landmarks: Tensor, size: int = SIDE) -> Tensor:
    """Align the faces in `pixels` (B, 3, H, W) to the recogniser's template: (B, 3, size, size), both in [-1, 1].

    landmarks: (B, 5, 2), x and y in pixels of `pixels`. Uses the least-squares similarity transform onto the template
    and bilinear sampling, as insightface's `norm_crop`. The area outside the picture is black. Differentiable in
    `pixels`.
    """
    height, width = pixels.shape[-2:]
    template = _template(landmarks.dtype, landmarks.device) * (size / SIDE)
    # A similarity transform of the plane is z -> a z + b in complex numbers; here from the template to the picture.
    source, target = torch.view_as_complex(template.contiguous()), torch.view_as_complex(landmarks.contiguous())
    from_mean, to_mean = source.mean(), target.mean(dim=1, keepdim=True)
    centred, moved = source - from_mean, target - to_mean
    # The fit goes from the picture to the template and is then inverted: a fit in the other direction would differ.
    forward = (moved.conj() * centred).sum(dim=1, keepdim=True) / moved.abs().square().sum(dim=1, keepdim=True)
    line = torch.arange(size, dtype=landmarks.dtype, device=landmarks.device)
    where = torch.complex(line.expand(size, size), line.unsqueeze(1).expand(size, size))  # (size, size)
    where = (where.reshape(1, -1) - from_mean) / forward + to_mean  # (B, size * size)
    grid = torch.stack([where.real / (width - 1), where.imag / (height - 1)], dim=-1) * 2 - 1
    grid = grid.view(-1, size, size, 2).to(pixels.dtype)
    # grid_sample pads with zeros; the shift by 1 makes them black.
    return F.grid_sample(pixels + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=True) - 1


@lru_cache(maxsize=4)
def _template(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The template on the device, cached: nothing can be copied there during the capture of a CUDA graph."""
    return torch.tensor(TEMPLATE, dtype=dtype, device=device)


class Recogniser(nn.Module):
    """An ONNX recogniser's graph in torch: (B, 3, 112, 112) RGB in [-1, 1] to raw embeddings (B, E)."""

    def __init__(self, graph: Any, mean: float, std: float) -> None:
        """graph: onnx.GraphProto with one input. mean, std: its normalisation of pixels 0..255. Raises Incompatible."""
        from onnx import helper, numpy_helper

        super().__init__()
        # x in [-1, 1] is the pixel 127.5 x + 127.5, and the graph's input is (pixel - mean) / std.
        self.scale, self.shift = 127.5 / std, (127.5 - mean) / std
        self.weights = {}  # name in the graph -> name of the buffer
        self.constants: dict[str, Tensor] = {}
        for weight in graph.initializer:
            self._keep(weight.name, numpy_helper.to_array(weight))
        self.nodes: list[tuple[Callable[..., Tensor], dict[str, Any], list[str], str]] = []
        for node in graph.node:
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type == "Constant":
                self._keep(node.output[0], numpy_helper.to_array(attributes["value"]))
                continue
            if node.op_type not in _NODES:
                raise Incompatible(
                    f"the recogniser has a node {node.op_type!r} that has no differentiable twin here",
                    "use another pack, or learn without the identity loss: `--recipe reference`",
                )
            self.nodes.append((_NODES[node.op_type], attributes, list(node.input), node.output[0]))
        known = {weight.name for weight in graph.initializer}  # old files also list their weights as inputs
        self.entry = next(each.name for each in graph.input if each.name not in known)
        self.exit = graph.output[0].name

    def forward(self, crops: Tensor) -> Tensor:
        values = {self.entry: crops * self.scale + self.shift}
        for compute, attributes, inputs, output in self.nodes:
            values[output] = compute(attributes, *(self._value(name, values) for name in inputs))
        return values[self.exit].flatten(1)

    def _keep(self, name: str, array: Any) -> None:
        weight = torch.from_numpy(array.copy())
        if not weight.is_floating_point():  # a shape, which is read on the CPU on every device
            self.constants[name] = weight
            return
        self.weights[name] = f"weight_{len(self.weights)}"
        self.register_buffer(self.weights[name], weight)

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor | None:
        if not name:  # an omitted optional input
            return None
        if name in self.constants:
            return self.constants[name]
        return getattr(self, self.weights[name]) if name in self.weights else values[name]


def load(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Recogniser:
    """Load the pack's recogniser, frozen: (B, 3, 112, 112) RGB in [-1, 1] to raw embeddings (B, E).

    insightface gives its file and its pixel normalisation. Raises WeightsMissing or Incompatible.
    """
    import onnx

    known = faces.load(folder).recogniser
    if tuple(known.input_size) != (SIDE, SIDE):
        raise Incompatible(
            f"the recogniser in {folder} reads {known.input_size} pixels, not {SIDE} x {SIDE}", "use another pack"
        )
    graph = onnx.load(str(known.model_file)).graph
    return Recogniser(graph, known.input_mean, known.input_std).eval().requires_grad_(False).to(device, dtype)


def _sides(attributes: dict[str, Any], x: Tensor) -> Tensor:
    """`x` with the zero padding of the node; ONNX lists all starts before all ends."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Incompatible("the recogniser pads by an automatic rule", "use another pack")
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return F.pad(x, (left, right, top, bottom)) if top or left or bottom or right else x


def _convolution(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    given = {"stride": attributes.get("strides", (1, 1)), "dilation": attributes.get("dilations", (1, 1))}
    return F.conv2d(_sides(attributes, x), weight, bias, groups=attributes.get("group", 1), **given)


def _normalisation(attributes: dict[str, Any], x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor):
    return F.batch_norm(x, mean, var, scale, shift, eps=attributes.get("epsilon", 1e-5))


def _linear(attributes: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """alpha x w + beta b; x and w are transposed if the node says so."""
    x = x.T if attributes.get("transA") else x
    product = attributes.get("alpha", 1.0) * x @ (weight.T if attributes.get("transB") else weight)
    return product if bias is None else product + attributes.get("beta", 1.0) * bias


def _average(attributes: dict[str, Any], x: Tensor) -> Tensor:
    """Average pooling; padded zeros count only if the node says so."""
    kernel, stride = attributes["kernel_shape"], attributes.get("strides", (1, 1))
    total = F.avg_pool2d(_sides(attributes, x), kernel, stride)
    if not any(attributes.get("pads", ())) or attributes.get("count_include_pad"):
        return total
    return total / F.avg_pool2d(_sides(attributes, torch.ones_like(x)), kernel, stride)


def _slope(attributes: dict[str, Any], x: Tensor, slope: Tensor) -> Tensor:
    """PReLU. The slope has one number per channel, with or without trailing axes of size 1."""
    return torch.where(x >= 0, x, x * slope)


def _reshape(attributes: dict[str, Any], x: Tensor, shape: Tensor) -> Tensor:
    """Reshape: 0 keeps an axis, -1 is inferred. A fixed batch of 1 in the file stands for any batch."""
    wanted = [x.shape[k] if size == 0 else size for k, size in enumerate(shape.tolist())]
    return x.reshape(x.shape[0], *wanted[1:]) if wanted[:1] == [1] else x.reshape(wanted)


_NODES: dict[str, Callable[..., Tensor]] = {
    "Add": lambda attributes, x, y: x + y,
    "AveragePool": _average,
    "BatchNormalization": _normalisation,
    "Clip": lambda attributes, x, low=None, high=None: x.clamp(attributes.get("min", low), attributes.get("max", high)),
    "Conv": _convolution,
    "Div": lambda attributes, x, y: x / y,
    "Dropout": lambda attributes, x, *rest: x,
    "Flatten": lambda attributes, x: x.flatten(attributes.get("axis", 1)),
    "Gemm": _linear,
    "GlobalAveragePool": lambda attributes, x: x.mean(dim=(2, 3), keepdim=True),
    "Identity": lambda attributes, x: x,
    "LeakyRelu": lambda attributes, x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "MatMul": lambda attributes, x, y: x @ y,
    "Mul": lambda attributes, x, y: x * y,
    "PRelu": _slope,
    "Relu": lambda attributes, x: x.relu(),
    "Reshape": _reshape,
    "Sigmoid": lambda attributes, x: x.sigmoid(),
    "Sub": lambda attributes, x, y: x - y,
}
