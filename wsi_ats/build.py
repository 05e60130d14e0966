"""Settings -> model: the only place that knows the sizes of networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from wsi_ats.attention import PaperAttention, WideAttention
from wsi_ats.config import AttentionSettings, Config, FeatureSettings
from wsi_ats.errors import ConfigError
from wsi_ats.features import PaperFeatures, SmallResNet
from wsi_ats.head import ClassHead
from wsi_ats.mobilenet import MobileNetV1
from wsi_ats.model import AttentionSampler
from wsi_ats.score import RefiningScore


def build_model(config: Config, classes: Sequence[str], *, pretrained: bool = True) -> AttentionSampler:
    """A model with fresh weights; the initial weights depend on `config.train.seed` alone.

    With `pretrained` the feature network reads its weights file; without, its weights are left for a checkpoint to
    fill. Raises `ConfigError` for settings that do not go together and `ModelError` for a bad weights file.
    """
    if len(classes) < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, got {list(classes)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        features = build_features(config.features, pretrained=pretrained)
        return AttentionSampler(
            config,
            classes,
            attention=build_attention(config.attention),
            features=features,
            score=RefiningScore(features.dim) if config.sampling.refined else None,
            head=ClassHead(features.dim, len(classes), config.head.scale),
        )


def build_attention(settings: AttentionSettings) -> nn.Module:
    """The attention network: view -> one logit a cell of `stride` view px."""
    if settings.network == "paper":
        return PaperAttention(settings.stride)
    return WideAttention(settings.stride, settings.width)


def build_features(
    settings: FeatureSettings, *, pretrained: bool
) -> PaperFeatures | SmallResNet | MobileNetV1:
    """The feature network: tile -> unit vector."""
    features: PaperFeatures | SmallResNet | MobileNetV1
    if settings.network == "mobilenet-v1":
        if pretrained and settings.weights is None:
            raise ConfigError(
                "features.network is mobilenet-v1 and features.weights is not set",
                remedy="set features.weights to the npz file of its weights, or choose features.network = "
                '"small-resnet", which trains from scratch',
            )
        features = MobileNetV1(settings.weights if pretrained else None)
    else:
        features = PaperFeatures() if settings.network == "paper" else SmallResNet(settings.width)
    if settings.frozen is not None:
        features.frozen = settings.frozen
    for parameter in features.parameters():
        parameter.requires_grad_(not features.frozen)
    return features
