"""MobileNet v1 (Howard et al., 2017, arXiv 1704.04861) with ImageNet weights, as a feature network.

The weights come from Keras, as arrays in an .npz file: `<layer>/kernel` (height, width, in, out), or
`<layer>/depthwise_kernel` (height, width, channels, 1), and the batch normalisation of `<layer>_bn`. At load
the normalisation is folded into the convolutions: the same function, with a pass over every map less.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional as F

from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.regular import open_regular

# (output channels, stride) of the depthwise separable blocks conv_dw_1 + conv_pw_1 .. conv_dw_12 + conv_pw_12
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2))
_EPSILON = 1e-3  # of Keras's batch normalisation in this network
_CHUNK = 16  # tiles per pass of a frozen network: activations stay in the processor's caches


class MobileNetV1(nn.Module):
    """Tiles (N, 3, h, w), RGB in [0, 1] -> pooled activations of `layer`, (N, D), L2-normalised.

    `weights`: the .npz file, or None for random weights (to be filled from a model file). `layer`: one of
    conv_pw_1 .. conv_pw_12; a linear probe on conv_pw_11 (512 channels, stride 16) tells tumour from benign colon.
    `frozen`: no gradients, no training; features of a tile may then be cached. Takes tiles of any size and mpp.
    """

    def __init__(
        self, weights: str | Path | None = None, layer: str = "conv_pw_11", *, frozen: bool = True
    ) -> None:
        super().__init__()
        self.input_px: int | None = None
        self.mpp: tuple[float, ...] | None = None
        self.blocks = _block_number(layer)
        self.dim = _BLOCKS[self.blocks - 1][0]
        self.frozen = frozen
        self.conv1 = _SameConv(3, 32, 3, stride=2)
        channels = 32
        for i, (out, stride) in enumerate(_BLOCKS[: self.blocks], 1):
            self.add_module(f"conv_dw_{i}", _SameConv(channels, channels, 3, stride, groups=channels))
            self.add_module(f"conv_pw_{i}", _SameConv(channels, out, 1))
            channels = out
        if weights is not None:
            self._fill(_read_arrays(Path(weights)), Path(weights))
        self.requires_grad_(not frozen)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, tiles: Float[torch.Tensor, "N 3 h w"]) -> Float[torch.Tensor, "N dim"]:
        """Features (N, dim) of unit length; under `no_grad`, and a few tiles at a time, where frozen."""
        if not self.frozen:
            return self.in_one_pass(tiles)
        with torch.no_grad():
            return torch.cat([self.in_one_pass(part) for part in torch.split(tiles, _CHUNK)])

    @property
    def pairs(self) -> list[nn.ModuleList]:
        """The network's blocks, conv_dw_i with conv_pw_i, in order."""
        layers = list(self.children())[1:]
        return [nn.ModuleList(pair) for pair in zip(layers[::2], layers[1::2], strict=True)]

    def activations(self, tiles: Float[torch.Tensor, "N 3 h w"]) -> Float[torch.Tensor, "N dim r c"]:
        """Activations of the last layer, (N, dim, h / stride, w / stride), in [0, 6]."""
        maps = tiles.contiguous(memory_format=torch.channels_last) * 2.0 - 1.0
        for layer in self.children():
            maps = F.relu6(layer(maps), inplace=True)
        return maps

    def in_one_pass(self, tiles: Float[torch.Tensor, "N 3 h w"]) -> Float[torch.Tensor, "N dim"]:
        """Features (N, dim) of unit length, all tiles at once."""
        return F.normalize(self.activations(tiles).mean((2, 3)), dim=1)

    def _fill(self, arrays: Mapping[str, np.ndarray], path: Path) -> None:
        for name, layer in self.named_children():
            assert isinstance(layer, _SameConv)
            kernel, bias = _folded(arrays, name, layer, path)
            layer.weight.data.copy_(torch.from_numpy(kernel))
            layer.bias.data.copy_(torch.from_numpy(bias))


def attention_body(weights: str | Path | None, layer: str) -> tuple[nn.Sequential, int]:
    """The layers up to `layer` as plain convolutions without padding, for an attention network; and their channels.

    They take pixels as attention networks do, (x - 0.5) / 0.25, twice what MobileNet has seen: the first kernel is
    halved. Raises ConfigError for an unknown layer, ModelError for a bad file; weights None: to be filled in.
    """
    net = MobileNetV1(weights, layer)
    layers: list[nn.Module] = []
    for part in net.children():
        assert isinstance(part, _SameConv)
        out, inside, size, _ = part.weight.shape
        plain = nn.Conv2d(inside * part.groups, out, size, part.stride, groups=part.groups)
        plain.weight.data.copy_(part.weight.data if layers else part.weight.data / 2)
        plain.bias.data.copy_(part.bias.data)  # type: ignore[union-attr]
        layers += [plain, nn.ReLU6()]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last), net.dim  # type: ignore[call-overload]


class _SameConv(nn.Module):
    """Convolution padded as Keras's MobileNet does: with stride 2, right and bottom only."""

    def __init__(self, channels: int, out: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(out, channels // groups, size, size))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 2:
            x = F.pad(x, (0, 1, 0, 1))
            return F.conv2d(x, self.weight, self.bias, 2, 0, groups=self.groups)
        return F.conv2d(x, self.weight, self.bias, 1, self.weight.shape[2] // 2, groups=self.groups)


def _block_number(layer: str) -> int:
    known = [f"conv_pw_{i}" for i in range(1, len(_BLOCKS) + 1)]
    if layer not in known:
        raise ConfigError(f"MobileNet has no layer {layer!r}", f"choose one of {', '.join(known)}")
    return known.index(layer) + 1


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    remedy = "give the .npz file of MobileNet v1 weights with Keras layer names"
    try:
        # opened here, since numpy forgets to close a file that turns out to be no archive
        with open_regular(path) as file:
            stored = np.load(file, allow_pickle=False)
            if isinstance(stored, np.ndarray):
                raise ModelError(f"weights file {path} holds one bare array", remedy)
            with stored:
                return {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"cannot read weights file {path}: {error}", remedy) from error


def _folded(
    arrays: Mapping[str, np.ndarray], name: str, layer: _SameConv, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel in torch's layout times the normalisation's scale, and the bias of that one convolution."""
    depthwise = layer.groups > 1
    out, inside, size, _ = layer.weight.shape
    shape = (size, size, out, 1) if depthwise else (size, size, inside, out)
    kernel = _array(arrays, f"{name}/{'depthwise_kernel' if depthwise else 'kernel'}", shape, path)
    gamma, beta, mean, variance = (
        _array(arrays, f"{name}_bn/{part}", (out,), path)
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / np.sqrt(variance + _EPSILON)
    kernel = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(3, 2, 0, 1)
    return kernel * scale[:, None, None, None], beta - mean * scale


def _array(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    if name not in arrays:
        raise ModelError(f"weights file {path} lacks {name!r}", "use the weights of MobileNet v1 1.0")
    if arrays[name].shape != shape:
        raise ModelError(
            f"{name!r} in weights file {path} has shape {arrays[name].shape}, not {shape}",
            "use the weights of MobileNet v1 with width 1.0",
        )
    return arrays[name].astype(np.float64)
