"""Encoders that are programs: both kinds of file, and that none is loaded unless the user says so."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from tests.support.encoders import normalised, shaken, tiles
from tests.support.training import Bomb
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.encoder import Encoder
from wsi_ats.features.make import make_features
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.features.source import digest_of

SAYS: dict[str, Any] = {"input_px": 16, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 4, 4)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(batch)).mean((2, 3))


def program() -> nn.Module:
    torch.manual_seed(0)
    return shaken(Small())


def export(path: Path, *, open_batch: bool = True) -> Path:
    """A program file of the kind that its suffix says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".pt2":
            shapes = {"batch": {0: torch.export.Dim("n")}} if open_batch else None
            torch.export.save(torch.export.export(program(), (tiles(3, 16),), dynamic_shapes=shapes), path)
        else:
            torch.jit.save(torch.jit.script(program()), path)  # type: ignore[no-untyped-call]
    return path


def encoder(path: Path, **settings: Any) -> Encoder:
    values = {**SAYS, "trust": True, **settings}
    net = make_features(FeatureSettings(network="exported", weights=str(path), **values), pretrained=True)
    assert isinstance(net, Encoder)
    return net


@pytest.mark.parametrize("name", ["small.pt2", "small.pt"])
def test_vectors_are_the_programs(tmp_path: Path, name: str) -> None:
    net, batch = encoder(export(tmp_path / name)), tiles(18, 16)
    with torch.no_grad():
        expected = normalize(program()(normalised(batch, list(SAYS["mean"]), list(SAYS["std"]))))
    torch.testing.assert_close(net(batch), expected, atol=1e-6, rtol=0)
    assert (net.dim, net.input_px, net.mpp, net.frozen) == (8, 16, None, True)
    assert not net(batch).requires_grad
    net.train().eval()
    assert net.origin is not None
    assert net.origin.sha256 == digest_of([tmp_path / name])
    assert net.state_dict() == {}


@pytest.mark.parametrize("name", ["small.pt2", "small.pt"])
def test_a_program_is_not_touched_without_trust(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(ConfigError, match="is a program, and loading it can run any code") as caught:
        encoder(path, trust=False)
    assert "features.trust = true" in caught.value.remedy
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("setting", ["input_px", "mean"])
def test_what_a_program_takes_must_be_said(tmp_path: Path, setting: str) -> None:
    nothing = {"input_px": None} if setting == "input_px" else {"mean": None, "std": None}
    with pytest.raises(ConfigError, match=rf"features\.{setting} is not set"):
        encoder(export(tmp_path / "small.pt"), **nothing)


def test_a_program_for_one_number_of_tiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must leave the number of tiles open"):
        encoder(export(tmp_path / "small.pt2", open_batch=False))


@pytest.mark.parametrize("name", ["text.pt2", "text.pt", "absent.pt2"])
def test_files_that_are_no_programs_are_named(tmp_path: Path, name: str) -> None:
    if not name.startswith("absent"):
        (tmp_path / name).write_text("no program")
    with pytest.raises(ModelError, match=name):
        encoder(tmp_path / name)
