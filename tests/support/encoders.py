"""Small encoders on disk, with random weights, as the libraries write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.7, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
    "size": {"height": 28, "width": 28},
}


def tiles(n: int, px: int = 28, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, px, px, generator=torch.Generator().manual_seed(seed))


def normalised(batch: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    return (batch - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights far from their start, so that no two parts of the network are alike or do nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator) * 0.05
                value.copy_(value + (noise.abs() if name.endswith("running_var") else noise))
    return network.eval()


def save_vision_model(folder: Path, kind: str, processor: dict[str, Any] | None = None) -> nn.Module:
    """A transformer of three layers in `folder`, of transformers; returns the library's own model."""
    transformers = pytest.importorskip("transformers")
    name = {"vit": "ViT", "dinov2": "Dinov2", "registers": "Dinov2WithRegisters"}[kind]
    sizes = {"image_size": 28, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 3}
    config = getattr(transformers, f"{name}Config")(
        **sizes, num_attention_heads=2, **({"intermediate_size": 64} if kind == "vit" else {"mlp_ratio": 2})
    )
    model = shaken(getattr(transformers, f"{name}Model")(config))
    logging = transformers.utils.logging
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    logging.enable_progress_bar()
    if processor != {}:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor or PROCESSOR))
    return model
