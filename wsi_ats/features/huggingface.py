"""Vision models of the Hugging Face library `transformers`: Phikon, DINOv2, Midnight and any other.

Loaded from a folder on disk, from safetensors alone, and never with code that comes with the model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.encoder import Encoder, Expects
from wsi_ats.features.pooling import check_pooling, pool
from wsi_ats.features.published import PUBLISHED, Pooling, Triple
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.features.source import DESCRIPTION, SAFE, locate_folder, origin_of, read_json

_CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")


def huggingface_encoder(settings: FeatureSettings, *, pretrained: bool) -> Encoder:
    """The encoder of `settings`; without `pretrained` its weights are left for a checkpoint to fill.

    Input size, mean and std are those of the model's card or of preprocessor_config.json. Raises `ConfigError`
    where the folder or the library is not there, `ModelError` for files that cannot be used.
    """
    card = PUBLISHED.get(settings.network)
    index = f"{SAFE}.index.json"
    folder = locate_folder(settings, card.repository if card else None, (*DESCRIPTION, SAFE, index))
    model = _load(folder, settings.network, pretrained=pretrained)
    weights = sorted(folder.glob(SAFE)) if pretrained else []
    class_token = any(n.split(".")[-1] in _CLASS_TOKENS for n, _ in model.named_parameters())
    pooling = check_pooling(
        settings.network, card.pooling if card else settings.pooling, class_token=class_token
    )
    mpp = card.mpp if card else (settings.mpp,) if settings.mpp else None
    if card and card.input_px and card.mean and card.std:
        expects = Expects(card.input_px, mpp, card.mean, card.std)
    else:
        expects = _expects(folder / "preprocessor_config.json", mpp)
    registers = getattr(model.config, "num_register_tokens", 0) or 0
    distilled = any(n.split(".")[-1] == "distillation_token" for n, _ in model.named_parameters())
    network = HuggingFaceNetwork(model, pooling, class_token + distilled + registers)
    return Encoder(network, expects, settings, origin_of(settings, folder, weights))


class HuggingFaceNetwork(nn.Module):
    """Normalised tiles (N, 3, h, w) -> pooled last hidden state (N, D).

    `extra`: tokens before those of the patches.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, extra: int) -> None:
        super().__init__()
        self.model = model
        self.pooling, self.extra = pooling, extra

    def forward(self, tiles: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N D"]:
        """Vectors (N, D), not of unit length."""
        return pool(self.model(pixel_values=tiles).last_hidden_state, self.pooling, self.extra)


def _load(folder: Path, name: str, *, pretrained: bool) -> Any:
    try:
        import torch
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise ConfigError(
            f"features.network is {name}, which needs the package transformers ({error})",
            remedy="pip install 'wsi-ats[huggingface]'",
        ) from error
    remedy = (
        "give a folder with config.json, preprocessor_config.json and model.safetensors of a vision model"
    )
    try:
        with _quiet(logging):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if config.model_type == "timm_wrapper":
                raise ValueError("it is a model of timm in a wrapper, which hands its arguments on unseen")
            with torch.device("meta"):
                kind = type(AutoModel.from_config(config, trust_remote_code=False))
            # The pooling layer behind the class token is seldom trained and is not what the cards take.
            poolers = inspect.signature(kind.__init__).parameters
            unused = {"add_pooling_layer": False} if "add_pooling_layer" in poolers else {}
            if not pretrained:
                return kind(config, **unused)
            model, report = kind.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True,
                output_loading_info=True, **unused,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"cannot load the model in {folder}: {str(error).strip().splitlines()[0]}", remedy
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"the weights in {folder} lack {len(missing)} tensors, {missing[0]} first", remedy)
    return model.float()


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Keep the library's progress bars and reports from the user's terminal: missing weights are an error here."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _expects(path: Path, mpp: tuple[float, ...] | None) -> Expects:
    """Input size, mean and std of preprocessor_config.json. Raises `ModelError` where it does not say."""
    values = read_json(path)
    factor = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1.0
    if not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise ModelError(
            f"{path}: pixels are scaled by {factor:g}, and here encoders get RGB in [0, 1]",
            remedy="use a model whose rescale_factor is 1/255",
        )
    crops = values.get("do_center_crop", "crop_size" in values)
    side = _side(values.get("crop_size") if crops else values.get("size"))
    mean, std = _three(values.get("image_mean")), _three(values.get("image_std"))
    if values.get("do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if side is None or mean is None or std is None:
        raise ModelError(
            f"{path} does not give image_mean and image_std (three numbers each) and a square size: "
            f"{mean}, {std}, {values.get('crop_size' if crops else 'size')}",
            remedy="copy preprocessor_config.json from the model's page, beside the weights",
        )
    return Expects(side, mpp, mean, std)


def _side(size: object) -> int | None:
    if isinstance(size, Mapping):
        sides = {size.get("height"), size.get("width")} if "height" in size else {size.get("shortest_edge")}
        size = next(iter(sides)) if len(sides) == 1 else None
    return size if isinstance(size, int) else None


def _three(values: object) -> Triple | None:
    if not isinstance(values, list) or len(values) != 3:
        return None
    return float(values[0]), float(values[1]), float(values[2])
