"""Models of the library timm: UNI, UNI2, Virchow2, H-optimus, Prov-GigaPath and any other.

The network is timm's; its weights are read here, as tensors alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.encoder import Encoder, Expects
from wsi_ats.features.pooling import check_pooling, pool
from wsi_ats.features.published import PUBLISHED, Pooling, Published
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.features.source import PICKLED, SAFE, fill, locate_folder, origin_of, read_json, read_weights

_CONFIG = "config.json"
LOADING = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
"""Arguments of timm.create_model that make it load files or fetch them; a config.json has no need of them."""


def timm_encoder(settings: FeatureSettings, *, pretrained: bool) -> Encoder:
    """The encoder of `settings`; without `pretrained` its weights are left for a checkpoint to fill.

    Raises `ConfigError` where the folder or the library is not there, `ModelError` for files that cannot be used.
    """
    timm = _import_timm(settings.network)
    card = PUBLISHED.get(settings.network)
    repository = card.repository if card else None
    folder = locate_folder(settings, repository, (_CONFIG, SAFE))
    if pretrained and not list(folder.glob(SAFE)):
        folder = locate_folder(settings, repository, (_CONFIG, PICKLED))  # some are not out as safetensors
    config = read_json(folder / _CONFIG) if not (card and card.architecture) else {}
    model = _create(timm, config, card, folder)
    weights = [_weights(folder)] if pretrained else []
    for path in weights:
        fill(model, read_weights(path), path, surplus=_classifier(config))
    class_token = getattr(model, "cls_token", None) is not None
    pooling = check_pooling(
        settings.network, card.pooling if card else settings.pooling, class_token=class_token
    )
    network = TimmNetwork(model, pooling, int(getattr(model, "num_prefix_tokens", 0)))
    expects = _expects(settings, card, config, folder)
    return Encoder(network, expects, settings, origin_of(settings, folder, weights))


class TimmNetwork(nn.Module):
    """Normalised tiles (N, 3, h, w) -> pooled `forward_features` (N, D).

    `extra`: tokens before those of the patches, which timm calls prefix tokens: class token and registers.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, extra: int) -> None:
        super().__init__()
        self.model = model
        self.pooling, self.extra = pooling, extra

    def forward(self, tiles: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N D"]:
        """Vectors (N, D), not of unit length."""
        return pool(self.model.forward_features(tiles), self.pooling, self.extra)  # type: ignore[operator]


def _import_timm(name: str) -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        # A torchvision that was built for another torch ends in a RuntimeError.
        raise ConfigError(
            f"features.network is {name}, which needs the package timm, and it cannot be imported: {error}",
            remedy="pip install 'wsi-ats[timm]'; timm needs the torchvision that goes with the installed torch, from "
            "the same package index (CPU builds with CPU builds)",
        ) from error
    return timm


def _create(timm: Any, config: Mapping[str, Any], card: Published | None, folder: Path) -> Any:
    """timm's network without weights: arguments of config.json, then of the card, and no classifier."""
    name = card.architecture if card and card.architecture else config.get("architecture")
    cards = dict(card.arguments) if card else {}
    _refuse_loading(name, config.get("model_args", {}), folder)
    arguments = {**config.get("model_args", {}), **_classes(timm, cards), "num_classes": 0}
    if "global_pool" in config:
        arguments.setdefault("global_pool", config["global_pool"])
    try:
        return timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"timm {timm.__version__} cannot make {name!r} of {folder}: {str(error).splitlines()[0]}",
            remedy="install the timm that the model's card asks for, or check config.json",
        ) from error


def _refuse_loading(name: object, arguments: Mapping[str, Any], folder: Path) -> None:
    """Raise `ModelError` where config.json would have timm load or fetch something by itself, perhaps a pickle."""
    found = sorted(LOADING & {*arguments})
    if found:
        raise ModelError(
            f"{folder / _CONFIG}: model_args has {', '.join(found)}, with which timm loads files of its own choice",
            remedy=f"take it out; the weights are those beside it, {SAFE} or {PICKLED}",
        )
    if not isinstance(name, str) or not re.fullmatch(r"[\w.]+", name):
        raise ModelError(
            f"{folder / _CONFIG}: architecture {name!r} is not the bare name of one of timm's networks",
            remedy="copy config.json from the model's page; names with ':' or '/' would be fetched from somewhere",
        )


def _classes(timm: Any, arguments: Mapping[str, object]) -> dict[str, object]:
    """Arguments with the names of layers turned into the layers."""
    found = dict(arguments)
    if arguments.get("mlp_layer") == "SwiGLUPacked":
        found["mlp_layer"] = timm.layers.SwiGLUPacked
    if arguments.get("act_layer") == "SiLU":
        found["act_layer"] = nn.SiLU
    return found


def _weights(folder: Path) -> Path:
    found = [*sorted(folder.glob(SAFE)), folder / PICKLED]
    if not found[0].exists():
        raise ModelError(
            f"{folder} holds neither model.safetensors nor {PICKLED}",
            remedy="copy them from the model's page",
        )
    return found[0]


def _classifier(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Beginnings of the names of the classifier's tensors, which are not wanted."""
    given = config.get("pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ((given,) if isinstance(given, str) else given))


def _expects(
    settings: FeatureSettings, card: Published | None, config: Mapping[str, Any], folder: Path
) -> Expects:
    if card and card.input_px and card.mean and card.std:
        return Expects(card.input_px, card.mpp, card.mean, card.std)
    values = config.get("pretrained_cfg", {})
    try:
        _, rows, columns = values["input_size"]
        (r, g, b), (s, t, u) = values["mean"], values["std"]
        if rows != columns:
            raise ValueError(f"input_size {values['input_size']}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / _CONFIG}: pretrained_cfg does not give input_size (3, n, n), mean and std: {error}",
            remedy="copy config.json from the model's page",
        ) from error
    return Expects(rows, (settings.mpp,) if settings.mpp else None, (r, g, b), (s, t, u))
