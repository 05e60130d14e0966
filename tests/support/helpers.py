"""What several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from wsi_ats.model import AttentionSampler

DATA = Path(os.environ.get("WSI_ATS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def shared_data(relative: str) -> Path:
    """A file or folder of the shared test data; skips the test, saying so, where it is absent."""
    path = DATA / relative
    if not path.exists():
        pytest.skip(f"test data {relative!r} is absent; set WSI_ATS_DATA to a folder that holds it")
    return path


def give_opinions(model: AttentionSampler) -> None:
    """Weights with which attention, score and head of an untrained model are not flat."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for network in filter(None, (model.attention, model.region_attention, model.score, model.head)):
            for parameter in network.parameters():
                parameter += torch.randn(parameter.shape, generator=generator) * 0.3
