"""Encoders as programs in a file: torch.export (.pt2) and TorchScript (.pt).

Such a file is a program, and loading it can run any code: a .pt2 archive may hold pickled objects and expressions
that are evaluated, TorchScript may call any operator that the process has. So the user must say that the file
is trusted, and a model that was trained with one names it by its digest.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.encoder import Encoder, Expects
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.features.source import Origin, digest_of


def exported_encoder(settings: FeatureSettings, *, pretrained: bool = True) -> Encoder:
    """The encoder of `settings`: normalised tiles (N, 3, px, px) -> vectors (N, D), for any N; frozen.

    Raises `ConfigError` where the file is not trusted or what it takes is not said, `ModelError` where it cannot be
    loaded.
    """
    for name in ("weights", "input_px", "mean", "std"):
        if getattr(settings, name) is None:
            raise ConfigError(
                f"features.network is exported and features.{name} is not set",
                remedy="give weights (a .pt2 or .pt file), input_px, mean and std: the file does not say them. Where "
                "the program takes RGB in [0, 1], mean = [0, 0, 0] and std = [1, 1, 1]",
            )
    assert settings.weights
    assert settings.mean
    assert settings.std
    path = Path(settings.weights).resolve()
    if not settings.trust:
        raise ConfigError(
            f"features.weights: {path} is a program, and loading it can run any code",
            remedy="if you made it or trust who did, set features.trust = true; else ask for the weights as "
            "safetensors",
        )
    mpp = None if settings.mpp is None else (settings.mpp,)
    expects = Expects(settings.input_px, mpp, settings.mean, settings.std)
    network = _load(path)
    return Encoder(network, expects, settings, Origin(str(path), digest_of([path]), (path,)))


def _load(path: Path) -> nn.Module:
    if not path.is_file():
        raise ModelError(
            f"features.weights: there is no file {path}", remedy="give a .pt2 or TorchScript .pt file"
        )
    try:
        if path.suffix == ".pt2":
            return torch.export.load(path).module()
        with warnings.catch_warnings():
            # That TorchScript gives way to torch.export is no news to who has such a file.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            script: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
            return script.eval()
    except Exception as error:  # what a foreign program raises is not known
        raise ModelError(
            f"cannot load the program {path}: {type(error).__name__}: {str(error).splitlines()[0]}",
            remedy="export it again with the installed version of torch; .pt2 is torch.export, others TorchScript",
        ) from error
