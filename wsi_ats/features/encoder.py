"""A pretrained network with what it expects of a tile: one interface to all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.opening import open_weights
from wsi_ats.features.published import Triple
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.features.source import Origin

_CHUNK = {"cpu": 16}
_MOST = 128
"""Tiles per pass of a frozen network: on a processor few, whose activations stay in its caches."""
_TOLERANCE = 0.05
"""Share by which the mpp of tiles may differ: those at 0.48 um/px do for an encoder trained at 0.5."""


@dataclass(frozen=True)
class Expects:
    """Expectations of an encoder: everything that it takes beside the pixels themselves."""

    input_px: int | None
    """Side of a tile in px; None: any."""
    mpp: tuple[float, ...] | None
    """Micrometres per pixel that the encoder was trained at; None: any."""
    mean: Triple
    """Mean of RGB in [0, 1], which is taken off."""
    std: Triple
    """Standard deviation of RGB in [0, 1], which is divided by after that."""


class Encoder(nn.Module):
    """Tiles (N, 3, h, w), RGB in [0, 1] -> vectors (N, dim), L2-normalised.

    `network` takes normalised tiles and gives one vector each. It always stays in evaluation mode, also where it
    is trained: no dropout, and batch normalisation with its stored statistics. A batch's tiles come from few slides,
    chosen by an attention that moves; a tile's vector must not depend on the others that were drawn.

    Attributes: `dim`; `input_px`, `mpp` as in `Expects`; `frozen`: no gradients, features may be cached.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        expects: Expects,
        settings: FeatureSettings,
        origin: Origin | None = None,
        blocks: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.name = settings.network
        self.input_px, self.mpp = expects.input_px, expects.mpp
        self.any_scale = settings.any_scale
        self.frozen = settings.is_frozen
        self.embedded = settings.is_embedded
        self.origin = origin
        self.network = network
        if settings.network != "exported":  # exported programs have no mode, and say so with an error
            network.eval()
        self.register_buffer("mean", torch.tensor(expects.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(expects.std)[:, None, None], persistent=False)
        self.dim = self._measure()
        open_weights(network, settings, blocks)

    @property
    def stored(self) -> bool:
        """Whether the network's weights are part of the state; else they stay where they came from."""
        return self.embedded and self.name != "exported"

    def forward(self, tiles: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N dim"]:
        """Vectors (N, dim) of unit length; under `no_grad`, and a few tiles at a time, where frozen."""
        if not self.frozen:
            return self.in_one_pass(tiles)
        with torch.no_grad():
            parts = torch.split(tiles, _CHUNK.get(tiles.device.type, _MOST))
            return torch.cat([self.in_one_pass(part) for part in parts])

    def train(self, mode: bool = True) -> Encoder:
        """Set the mode of this module alone: the network stays in evaluation mode."""
        self.training = mode
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's weights, or nothing where they are only referred to."""
        if self.stored:
            return super().state_dict(*args, **kwargs)
        return kwargs.get("destination", {})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if not self.stored:
            state_dict.update({prefix + name: value for name, value in super().state_dict().items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def in_one_pass(self, tiles: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N dim"]:
        """Vectors (N, dim) of unit length, all tiles at once."""
        px = self.input_px
        if px is not None and tuple(tiles.shape[2:]) != (px, px):
            if not self.any_scale:
                raise ConfigError(
                    f"encoder {self.name} takes tiles of {px} x {px} px, got {tuple(tiles.shape[2:])}",
                    remedy=f"set tile.px = {px}, or features.any_scale = true to have them resized",
                )
            tiles = F.interpolate(tiles, (px, px), mode="bicubic", antialias=True).clamp(0, 1)
        return F.normalize(self.network((tiles - self.mean) / self.std), dim=1)

    @torch.no_grad()
    def _measure(self) -> int:
        """Length of the vectors, from two grey tiles."""
        px = self.input_px or 64
        try:
            vectors = self.network(torch.zeros(2, 3, px, px))
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            raise ModelError(
                f"encoder {self.name} does not take 2 tiles of {px} x {px} px: {str(error).splitlines()[0]}",
                remedy="check the input size; an exported program must leave the number of tiles open",
            ) from error
        if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != 2:
            shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ModelError(
                f"encoder {self.name} gives {shape} for 2 tiles, not one vector each (2, D)",
                remedy="give a network that pools its activations",
            )
        return vectors.shape[1]


def refuse_mismatch(encoder: nn.Module, name: str, px: int, mpp: float | None, *, any_scale: bool) -> None:
    """Check tiles of `px` pixels at `mpp` (None: relative to each slide) against what the encoder states.

    Raises `ConfigError` with the encoder, its value, the setting and the remedy.
    """
    if any_scale:
        return
    override = "or features.any_scale = true if you know why"
    takes: int | None = getattr(encoder, "input_px", None)
    scales: tuple[float, ...] | None = getattr(encoder, "mpp", None)
    if takes is not None and takes != px:
        raise ConfigError(
            f"encoder {name} takes tiles of {takes} px, but tile.px is {px}",
            remedy=f"set tile.px = {takes}, {override} (tiles are then resized)",
        )
    if scales is None or (mpp is not None and any(math.isclose(mpp, s, rel_tol=_TOLERANCE) for s in scales)):
        return
    trained = " or ".join(f"{s:g}" for s in scales)
    setting = "tile.downsample is set and tile.mpp is not" if mpp is None else f"tile.mpp is {mpp:g}"
    raise ConfigError(
        f"encoder {name} was trained on tiles of {trained} micrometres per pixel, but {setting}",
        remedy=f"set tile.mpp = {scales[-1] if len(scales) == 1 else trained}, {override}",
    )
