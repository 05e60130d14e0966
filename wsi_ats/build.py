"""Building of models from settings: the only place that knows the sizes of networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from wsi_ats.attention.make import make_attention
from wsi_ats.attention.networks import ConvAttention
from wsi_ats.config import Config
from wsi_ats.ensemble import Ensemble
from wsi_ats.errors import ConfigError
from wsi_ats.features.encoder import refuse_mismatch
from wsi_ats.features.make import make_features
from wsi_ats.head import Head, RefiningScore
from wsi_ats.model import AttentionSampler
from wsi_ats.slide_model import SlideModel
from wsi_ats.tasks.make import as_tasks
from wsi_ats.tasks.task import Task


def build_model(
    config: Config, tasks: Sequence[Task] | Sequence[str], *, pretrained: bool = True, fresh: bool = True
) -> SlideModel:
    """A model with fresh weights, of `train.members` members: an `AttentionSampler`, or an `Ensemble` of them."""
    members: list[AttentionSampler] = []
    for number in range(config.train.members):
        own = config.of_member(number)
        members.append(build_member(own, tasks, members[:1], pretrained=pretrained, fresh=fresh))
    return together(config, members)


def together(config: Config, members: Sequence[AttentionSampler]) -> SlideModel:
    """The members of a model as that model; of one, it is itself."""
    return members[0] if len(members) == 1 else Ensemble(config, members)


def build_member(
    config: Config,
    tasks: Sequence[Task] | Sequence[str],
    others: Sequence[AttentionSampler] = (),
    *,
    pretrained: bool = True,
    fresh: bool = True,
) -> AttentionSampler:
    """One attention sampler with fresh weights; the initial weights depend on `config.train.seed` alone.

    tasks: what the head is asked; bare names are the classes of a single task. others: members that are there
    already; a frozen feature network is the first one's.
    With `pretrained` the feature network reads its weights file, and if the model is `fresh`, so does the attention
    network; without, their weights are left for a checkpoint to fill. Raises `ConfigError` for settings that do not go
    together, such as tiles of another size or mpp than the encoder was trained on, and `ModelError` for a bad weights
    file.
    """
    tasks = as_tasks(tasks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        shared = others[0].features if others and config.features.is_frozen else None
        network: nn.Module = shared or make_features(config.features, pretrained=pretrained)
        refuse_mismatch(
            network,
            config.features.network,
            config.tile.px,
            config.tile.mpp,
            any_scale=config.features.any_scale,
        )
        dim: int = network.dim  # type: ignore[assignment]
        return AttentionSampler(
            config,
            tasks,
            attention=make_attention(
                config.attention, config.attention.stride, pretrained=pretrained and fresh
            ),
            region_attention=build_region_attention(config),
            features=network,
            score=RefiningScore(dim) if config.sampling.refined else None,
            head=Head(dim, sum(task.outputs for task in tasks), config.head.scale),
        )


def build_region_attention(config: Config) -> ConvAttention | None:
    """The network of the coarse view: one logit a region; None with one level of attention."""
    if config.attention.levels == 1:
        return None
    side = config.regions.side * config.attention.stride
    if side % config.regions.shrink:
        raise ConfigError(
            f"regions.shrink={config.regions.shrink} does not divide the {side} view px of a region (regions.side "
            f"{config.regions.side} x attention.stride {config.attention.stride})",
            remedy="choose a divisor: a region is a whole number of pixels of the coarse view",
        )
    return make_attention(config.attention, side // config.regions.shrink)
