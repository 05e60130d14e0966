"""Settings -> model: the only place that knows the sizes of networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from wsi_ats.attention.networks import (
    ConvAttention,
    DeepAttention,
    PaperAttention,
    PretrainedAttention,
    WideAttention,
)
from wsi_ats.config import AttentionSettings, Config
from wsi_ats.errors import ConfigError
from wsi_ats.features.encoder import Encoder, refuse_mismatch
from wsi_ats.features.exported import exported_encoder
from wsi_ats.features.huggingface import huggingface_encoder
from wsi_ats.features.mobilenet import MobileNetV1, attention_body
from wsi_ats.features.opening import open_weights
from wsi_ats.features.published import PUBLISHED
from wsi_ats.features.resnet import resnet_encoder
from wsi_ats.features.scratch import PaperFeatures, SmallResNet
from wsi_ats.features.settings import FROM_SCRATCH, RESNETS, FeatureSettings
from wsi_ats.features.timm_models import timm_encoder
from wsi_ats.head import Head, RefiningScore
from wsi_ats.model import AttentionSampler
from wsi_ats.tasks.make import as_tasks
from wsi_ats.tasks.task import Task

Features = PaperFeatures | SmallResNet | MobileNetV1 | Encoder


def build_model(
    config: Config, tasks: Sequence[Task] | Sequence[str], *, pretrained: bool = True, fresh: bool = True
) -> AttentionSampler:
    """A model with fresh weights; the initial weights depend on `config.train.seed` alone.

    tasks: what the heads are asked; bare names are the classes of a single task.
    With `pretrained` the feature network reads its weights file, and if the model is `fresh`, so does the attention
    network; without, their weights are left for a checkpoint to fill. Raises `ConfigError` for settings that do not go
    together, such as tiles of another size or mpp than the encoder was trained on, and `ModelError` for a bad weights
    file.
    """
    tasks = as_tasks(tasks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        features = build_features(config.features, pretrained=pretrained)
        refuse_mismatch(
            features,
            config.features.network,
            config.tile.px,
            config.tile.mpp,
            any_scale=config.features.any_scale,
        )
        return AttentionSampler(
            config,
            tasks,
            attention=build_attention(
                config.attention, config.attention.stride, pretrained=pretrained and fresh
            ),
            region_attention=build_region_attention(config),
            features=features,
            score=RefiningScore(features.dim) if config.sampling.refined else None,
            head=Head(features.dim, sum(task.outputs for task in tasks), config.head.scale),
        )


def build_attention(settings: AttentionSettings, stride: int, *, pretrained: bool = True) -> ConvAttention:
    """The attention network: view -> one logit a cell of `stride` view px; `pretrained` as in `build_model`."""
    if settings.network == "paper":
        return PaperAttention(stride)
    if settings.network == "mobilenet-v1":
        if pretrained and settings.weights is None:
            raise ConfigError(
                "attention.network is mobilenet-v1 and attention.weights is not set",
                remedy="set attention.weights to the npz file of its weights, or choose attention.network = "
                '"wide", which trains from scratch',
            )
        body, channels = attention_body(settings.weights if pretrained else None, settings.layer)
        return PretrainedAttention(body, channels, stride, settings.width)
    network = DeepAttention if settings.network == "deep" else WideAttention
    return network(stride, settings.width)


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
    return build_attention(config.attention, side // config.regions.shrink)


def build_features(settings: FeatureSettings, *, pretrained: bool) -> Features:
    """The feature network: tile -> unit vector."""
    if settings.network in FROM_SCRATCH:
        own = PaperFeatures() if settings.network == "paper" else SmallResNet(settings.width)
        own.frozen = settings.is_frozen
        own.requires_grad_(not own.frozen)
        return own
    if settings.network == "mobilenet-v1":
        return _build_mobilenet(settings, pretrained=pretrained)
    if settings.network == "exported":
        return exported_encoder(settings)
    if settings.network in RESNETS:
        return resnet_encoder(settings, pretrained=pretrained)
    card = PUBLISHED.get(settings.network)
    library = card.library if card else settings.network
    make = timm_encoder if library == "timm" else huggingface_encoder
    return make(settings, pretrained=pretrained)


def _build_mobilenet(settings: FeatureSettings, *, pretrained: bool) -> MobileNetV1:
    if pretrained and settings.weights is None:
        raise ConfigError(
            "features.network is mobilenet-v1 and features.weights is not set",
            remedy="set features.weights to the npz file of its weights, or choose features.network = "
            '"small-resnet", which trains from scratch',
        )
    network = MobileNetV1(settings.weights if pretrained else None, frozen=settings.is_frozen)
    open_weights(network, settings, network.pairs)
    return network
