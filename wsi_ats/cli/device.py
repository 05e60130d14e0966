"""The device that a command computes on."""

from __future__ import annotations

import re

from wsi_ats.errors import ConfigError


def device_named(name: str) -> str:
    """The device that `--device` names. Raises `ConfigError` for one that is not there or lacks float64."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        # Others lack float64, which draws and probabilities are computed in.
        raise ConfigError(f"--device is {name}; it must be auto, cpu, cuda or cuda:N", "use cpu or auto")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name}: {str(error).splitlines()[0]}", remedy="use cpu or auto"
        ) from None
    return name
