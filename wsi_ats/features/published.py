"""Published encoders: what their model cards say of the tiles they take and the vectors they give.

The figures follow the cards or public copies of their loading code. Those of H-optimus-0, Midnight, UNI and UNI2 were
compared with such copies, the others not: compare them with the card before you rely on them (docs/encoders.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Triple = tuple[float, float, float]
Pooling = Literal["cls", "mean", "cls+mean"]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
_H_OPTIMUS_MEAN: Triple = (0.707223, 0.578729, 0.703617)
_H_OPTIMUS_STD: Triple = (0.211883, 0.230117, 0.177517)
_MIXED = (0.25, 0.5, 1.0, 2.0)
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}


@dataclass(frozen=True)
class Published:
    """A published encoder, as its model card describes it."""

    library: Literal["huggingface", "timm"]
    repository: str
    """Name of the encoder on the Hugging Face hub."""
    pooling: Pooling
    mpp: tuple[float, ...] | None
    """Micrometres per pixel of the tiles that the encoder was trained on; None: no tissue, so that any will do."""
    input_px: int | None = None
    """Side of the encoder's tiles in px; None: as the files beside the weights say, and so for mean and std."""
    mean: Triple | None = None
    std: Triple | None = None
    architecture: str = ""
    """Name that timm has for the network, where the card gives it whole; else config.json has it."""
    arguments: Mapping[str, object] = field(default_factory=dict)
    """Arguments that the card passes to timm.create_model; classes by their name."""


def _timm(repository: str, pooling: Pooling, mpp: tuple[float, ...], mean: Triple, std: Triple, architecture: str,
          arguments: Mapping[str, object]) -> Published:  # fmt: skip
    return Published("timm", repository, pooling, mpp, 224, mean, std, architecture, arguments)


PUBLISHED: Mapping[str, Published] = {
    "phikon": Published("huggingface", "owkin/phikon", "cls", (0.5,)),
    "phikon-v2": Published("huggingface", "owkin/phikon-v2", "cls", (0.5,)),
    # The card gives mean and std in so many words, to be kept to exactly.
    "midnight": Published(
        "huggingface", "kaiko-ai/midnight", "cls+mean", _MIXED, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    ),
    "dinov2-small": Published("huggingface", "facebook/dinov2-small", "cls", None),
    "dinov2-base": Published("huggingface", "facebook/dinov2-base", "cls", None),
    "dinov2-large": Published("huggingface", "facebook/dinov2-large", "cls", None),
    "uni": _timm(
        "MahmoodLab/UNI", "cls", (0.5,), IMAGENET_MEAN, IMAGENET_STD, "vit_large_patch16_224",
        {"img_size": 224, "patch_size": 16, "init_values": 1e-5, "dynamic_img_size": True},
    ),
    "uni2": _timm(
        "MahmoodLab/UNI2-h", "cls", (0.5,), IMAGENET_MEAN, IMAGENET_STD, "vit_giant_patch14_224",
        {
            "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5,
            "embed_dim": 1536, "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8,
            "dynamic_img_size": True, **_SWIGLU,
        },
    ),
    "virchow2": _timm(
        "paige-ai/Virchow2", "cls+mean", _MIXED, IMAGENET_MEAN, IMAGENET_STD, "", _SWIGLU
    ),
    "h-optimus-0": _timm(
        "bioptimus/H-optimus-0", "cls", (0.5,), _H_OPTIMUS_MEAN, _H_OPTIMUS_STD, "",
        {"init_values": 1e-5, "dynamic_img_size": False},
    ),
    "h-optimus-1": _timm(
        "bioptimus/H-optimus-1", "cls", (0.5,), _H_OPTIMUS_MEAN, _H_OPTIMUS_STD, "",
        {"init_values": 1e-5, "dynamic_img_size": False},
    ),
    # The card resizes tiles of 256 px to 256 and cuts out the middle 224: the 224 px around the tile's centre.
    "gigapath": _timm("prov-gigapath/prov-gigapath", "cls", (0.5,), IMAGENET_MEAN, IMAGENET_STD, "", {}),
}  # fmt: skip
