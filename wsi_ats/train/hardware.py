"""What a training computes on, and in which precision: what does not go together is told before any slide is opened."""

from __future__ import annotations

import torch

from wsi_ats.config import Config
from wsi_ats.errors import ConfigError


def accelerator() -> str:
    """The kind of device that a training computes on, as Lightning calls it: `gpu` where PyTorch finds one."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def check_precision(config: Config) -> None:
    """Raise `ConfigError` where the device cannot compute in `train.precision`."""
    wished = config.train.precision
    if wished == "16-mixed" and accelerator() == "cpu":
        raise ConfigError(
            f"train.precision is {wished!r}, and PyTorch finds no GPU: processors train in float32 or bfloat16",
            remedy='use "bf16-mixed" or "32-true", or train where `wsi-ats doctor` finds a GPU',
        )
    if wished == "bf16-mixed" and accelerator() == "gpu" and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f"train.precision is {wished!r}, which {torch.cuda.get_device_name()} cannot compute",
            remedy='use "16-mixed" or "32-true"',
        )
