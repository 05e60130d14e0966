"""Receptive fields, what a network of convolutions sees: arithmetic over its modules.

Output i of a chain of layers sees the inputs i * step - pad ... i * step - pad + size - 1 along each axis. A
layer of kernel k, dilation d, stride s and padding p takes (size, step, pad) to

    size + d (k - 1) step,   step s,   pad + p step

(V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016; A. Araujo et al., "Computing
receptive fields of convolutional neural networks", Distill 2019). An output whose inputs all lie inside the
picture owes nothing to the padding of any layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from wsi_ats.errors import ConfigError

POINTWISE: tuple[type[nn.Module], ...] = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softshrink, nn.Hardshrink),
    *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Tanhshrink, nn.Threshold),
    *(nn.ChannelShuffle, nn.LocalResponseNorm),  # over the channels of one pixel
)
"""Layers whose output at a pixel depends on that pixel alone."""

COUPLING = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)
GLOBAL = (
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerEncoder,
    nn.Flatten,
    nn.Linear,
)

Two = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reach:
    """Inputs that output i of a network sees along each axis (y, x): i * step - pad, and `size` of them."""

    size: Two = (1, 1)
    step: Two = (1, 1)
    pad: Two = (0, 0)

    def then(self, kernel: Two, stride: Two, padding: Two, dilation: Two = (1, 1)) -> Reach:
        """The reach after one more layer."""
        axes = range(2)
        return Reach(
            _two([self.size[a] + dilation[a] * (kernel[a] - 1) * self.step[a] for a in axes]),
            _two([self.step[a] * stride[a] for a in axes]),
            _two([self.pad[a] + padding[a] * self.step[a] for a in axes]),
        )


def reach_of(net: nn.Module, before: Reach | None = None, name: str = "") -> Reach:
    """The reach of `net`, a layer or an nn.Sequential of such (nested ones too), behind layers of reach `before`.

    name: of `net` in its parent, for messages. Raises ConfigError, naming the layer and the remedy, where what a
    layer sees does not follow from its type.
    """
    reach = before or Reach()
    if _is(net, nn.Sequential):
        for key, layer in net.named_children():
            reach = reach_of(layer, reach, f"{name}.{key}" if name else key)
        return reach
    if isinstance(net, nn.Conv2d) and _is(net, nn.Conv2d):
        padding = _same(net, name) if isinstance(net.padding, str) else _pair(net.padding)
        return reach.then(_pair(net.kernel_size), _pair(net.stride), padding, _pair(net.dilation))
    if isinstance(net, nn.MaxPool2d) and _is(net, nn.MaxPool2d):
        if net.return_indices:
            raise _underivable(net, name, "returns indices beside its output", "set return_indices=False")
        stride = _pair(net.kernel_size if net.stride is None else net.stride)
        return reach.then(_pair(net.kernel_size), stride, _pair(net.padding), _pair(net.dilation))
    if isinstance(net, nn.AvgPool2d) and _is(net, nn.AvgPool2d):
        stride = _pair(net.kernel_size if net.stride is None else net.stride)
        return reach.then(_pair(net.kernel_size), stride, _pair(net.padding))
    if any(_is(net, kind) for kind in POINTWISE):
        return reach
    raise _refusal(net, name)


def _refusal(net: nn.Module, name: str) -> ConfigError:
    if isinstance(net, COUPLING):
        return _underivable(
            net,
            name,
            "normalises over the whole view",
            "leave normalisation layers out of attention networks",
        )
    if isinstance(net, RANDOM):
        return _underivable(
            net,
            name,
            "draws random numbers, which differ when a block is worked through again for its gradient",
            "leave dropout out of attention networks; the sampling of tiles regularises them",
        )
    if isinstance(net, GLOBAL):
        return _underivable(
            net,
            name,
            "ties every pixel of the view to every other",
            "use convolutions and pooling, 1x1 for Linear",
        )
    return _underivable(
        net,
        name,
        "is of a type whose receptive field is not known",
        "build attention networks as nn.Sequential of Conv2d, MaxPool2d, AvgPool2d and pointwise activations",
    )


def _underivable(net: nn.Module, name: str, why: str, remedy: str) -> ConfigError:
    return ConfigError(f"attention network layer {name!r} ({type(net).__name__}) {why}", remedy)


def _is(net: nn.Module, kind: type[nn.Module]) -> bool:
    # A subclass with a forward of its own may see anything; a parametrised layer keeps the forward of its kind.
    return isinstance(net, kind) and type(net).forward is kind.forward


def _same(net: nn.Conv2d, name: str) -> Two:
    """Pixels of padding before the picture for padding="same" and "valid"."""
    if net.padding == "valid":
        return 0, 0
    sides = [d * (k - 1) for d, k in zip(_pair(net.dilation), _pair(net.kernel_size), strict=True)]
    if any(side % 2 for side in sides):
        raise _underivable(
            net,
            name,
            'with an even kernel pads one side more than the other for padding="same"',
            "use an odd kernel",
        )
    return _two([side // 2 for side in sides])


def _pair(value: int | tuple[int, ...]) -> Two:
    return (value, value) if isinstance(value, int) else _two(list(value))


def _two(values: list[int]) -> Two:
    y, x = values
    return y, x
