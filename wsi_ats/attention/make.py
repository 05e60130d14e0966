"""Makers of the attention networks of the catalogue (`wsi_ats.catalogue.ATTENTION_NETWORKS`) from settings."""

from __future__ import annotations

from wsi_ats.attention.networks import (
    ConvAttention,
    DeepAttention,
    PaperAttention,
    PretrainedAttention,
    WideAttention,
)
from wsi_ats.catalogue import ATTENTION_NETWORKS, code_of
from wsi_ats.config import AttentionSettings
from wsi_ats.errors import ConfigError
from wsi_ats.features.mobilenet import attention_body


def make_attention(settings: AttentionSettings, stride: int, *, pretrained: bool = True) -> ConvAttention:
    """The attention network: view -> one logit a cell of `stride` view px.

    With `pretrained` one that has weights of its own reads them; without, they are left for a checkpoint to fill.
    """
    network: ConvAttention = code_of(ATTENTION_NETWORKS[settings.network].make)(
        settings, stride, pretrained=pretrained
    )
    return network


def wide(settings: AttentionSettings, stride: int, *, pretrained: bool) -> ConvAttention:
    """`WideAttention` of `settings.width` channels."""
    return WideAttention(stride, settings.width)


def deep(settings: AttentionSettings, stride: int, *, pretrained: bool) -> ConvAttention:
    """`DeepAttention` of `settings.width` channels."""
    return DeepAttention(stride, settings.width)


def paper(settings: AttentionSettings, stride: int, *, pretrained: bool) -> ConvAttention:
    """`PaperAttention`."""
    return PaperAttention(stride)


def mobilenet(settings: AttentionSettings, stride: int, *, pretrained: bool) -> ConvAttention:
    """`PretrainedAttention` on the layers of MobileNet up to `settings.layer`. Raises `ConfigError` without weights."""
    if pretrained and settings.weights is None:
        raise ConfigError(
            "attention.network is mobilenet-v1 and attention.weights is not set",
            remedy="set attention.weights to the npz file of its weights, or choose attention.network = "
            '"wide", which trains from scratch',
        )
    body, channels = attention_body(settings.weights if pretrained else None, settings.layer)
    return PretrainedAttention(body, channels, stride, settings.width)
