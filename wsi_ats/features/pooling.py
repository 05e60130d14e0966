"""Tokens of a vision transformer, or maps of a convolutional network -> one vector a tile."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wsi_ats.errors import ConfigError
from wsi_ats.features.published import Pooling


def pool(
    features: Float[Tensor, "N T D"] | Float[Tensor, "N D h w"], pooling: Pooling, extra: int
) -> Float[Tensor, "N E"]:
    """Vectors (N, D), or (N, 2 D) for cls+mean.

    `extra` tokens come before the patches: the class token, if there is one, then registers, which are left out.
    """
    if features.ndim == 4:
        return features.mean((2, 3))
    patches = features[:, extra:]
    if pooling == "cls":
        return features[:, 0]
    if pooling == "mean":
        return patches.mean(1)
    return torch.cat([features[:, 0], patches.mean(1)], 1)


def check_pooling(name: str, pooling: Pooling | None, *, class_token: bool) -> Pooling:
    """The pooling, if it is given and the network has the tokens for it. Raises `ConfigError`."""
    if pooling is None:
        raise ConfigError(
            f"features.network is {name} and features.pooling is not set",
            remedy="the model's card says which: cls, mean or cls+mean",
        )
    if pooling != "mean" and not class_token:
        raise ConfigError(
            f"features.pooling is {pooling}, but the model has no class token",
            remedy="set features.pooling = mean",
        )
    return pooling
