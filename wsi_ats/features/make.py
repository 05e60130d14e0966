"""Makers of the feature networks of the catalogue (`wsi_ats.catalogue.FEATURE_NETWORKS`) from settings."""

from __future__ import annotations

from wsi_ats.catalogue import FEATURE_NETWORKS, code_of
from wsi_ats.errors import ConfigError
from wsi_ats.features.encoder import Encoder
from wsi_ats.features.mobilenet import MobileNetV1
from wsi_ats.features.opening import open_weights
from wsi_ats.features.scratch import PaperFeatures, SmallResNet
from wsi_ats.features.settings import FeatureSettings

Features = PaperFeatures | SmallResNet | MobileNetV1 | Encoder


def make_features(settings: FeatureSettings, *, pretrained: bool) -> Features:
    """The feature network: tiles (N, 3, h, w) -> unit vectors (N, dim).

    With `pretrained` it reads its weights file; without, the weights are left for a checkpoint to fill.
    """
    network: Features = code_of(FEATURE_NETWORKS[settings.network].make)(settings, pretrained=pretrained)
    return network


def small_resnet(settings: FeatureSettings, *, pretrained: bool) -> SmallResNet:
    """`SmallResNet` of `settings.width`."""
    network = SmallResNet(settings.width)
    network.frozen = settings.is_frozen
    network.requires_grad_(not network.frozen)
    return network


def paper(settings: FeatureSettings, *, pretrained: bool) -> PaperFeatures:
    """`PaperFeatures`."""
    network = PaperFeatures()
    network.frozen = settings.is_frozen
    network.requires_grad_(not network.frozen)
    return network


def mobilenet(settings: FeatureSettings, *, pretrained: bool) -> MobileNetV1:
    """`MobileNetV1`, frozen or with its last blocks open. Raises `ConfigError` where it needs weights and has none."""
    if pretrained and settings.weights is None:
        raise ConfigError(
            "features.network is mobilenet-v1 and features.weights is not set",
            remedy="set features.weights to the npz file of its weights, or choose features.network = "
            '"small-resnet", which trains from scratch',
        )
    network = MobileNetV1(settings.weights if pretrained else None, frozen=settings.is_frozen)
    open_weights(network, settings, network.pairs)
    return network
