"""Opening of weights: which of a pretrained network are trained: none, those of its last blocks, or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from wsi_ats.errors import ConfigError
from wsi_ats.features.settings import FeatureSettings


def open_weights(network: nn.Module, settings: FeatureSettings, blocks: Sequence[nn.Module] = ()) -> None:
    """Let the weights learn that the settings open, and no others.

    blocks: those of the network; none: found by `find_blocks`. What comes after the last block, such as a final
    normalisation, opens with it. Raises `ConfigError`.
    """
    for parameter in network.parameters():  # one by one: TorchScript knows no network.requires_grad_
        parameter.requires_grad_(not settings.is_frozen and not settings.open_blocks)
    if not (settings.open_blocks or settings.checkpointing):
        return
    blocks = blocks or find_blocks(network, settings.network)
    if settings.open_blocks > len(blocks):
        raise ConfigError(
            f"features.open_blocks is {settings.open_blocks}, but {settings.network} has {len(blocks)} blocks",
            remedy=f"give at most {len(blocks)}, or features.frozen = false to train the whole network",
        )
    if settings.open_blocks:
        parameters = list(network.parameters())
        mine = {id(p) for block in blocks[-settings.open_blocks :] for p in block.parameters()}
        first = next(i for i, p in enumerate(parameters) if id(p) in mine)
        for parameter in parameters[first:]:
            parameter.requires_grad_(True)
    if settings.checkpointing:
        for block in blocks[-settings.open_blocks :]:
            _forget_activations(block)


def find_blocks(network: nn.Module, name: str) -> list[nn.Module]:
    """The longest row of modules of one kind: a transformer's layers. Raises `ConfigError` where there is none."""
    rows = [
        list(module.children())
        for module in network.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len({type(c) for c in module.children()}) == 1
    ]
    longest = max(rows, key=len, default=[])
    if len(longest) < 2:
        raise ConfigError(
            f"cannot tell the blocks of {name} ({type(network).__name__}) from its modules",
            remedy="set features.frozen instead of features.open_blocks, and leave features.checkpointing off",
        )
    return longest


def _forget_activations(block: nn.Module) -> None:
    """Keep only the block's input while training; in the backward pass compute it again."""
    forward = block.forward

    def twice(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Nothing in it is random: encoders stay in evaluation mode.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    block.forward = twice
