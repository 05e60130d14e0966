"""What training notes of its slides: the same after an interruption, and without slides whose tiles cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

import wsi_ats.train.reference
from tests.support.cohort import settings, write_cohort
from tests.support.training import silent
from wsi_ats import load_model
from wsi_ats.errors import SlideError
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.prediction import PatientPrediction
from wsi_ats.reference import REFERENCE
from wsi_ats.slide_model import SlideModel
from wsi_ats.statistics.novelty import LEAST
from wsi_ats.train.data import Example
from wsi_ats.train.run import train


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return read_manifest(write_cohort(tmp_path_factory.mktemp("many"), train=15, val=4, test=0, size=512))


def test_a_run_that_goes_on_notes_the_same(many: list[Row], tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 1"):
            raise KeyboardInterrupt

    config, said = settings("train.epochs=2"), list[str]()
    train(many, config, tmp_path / "whole", say=said.append)
    with pytest.raises(KeyboardInterrupt):
        train(many, config, tmp_path / "parts", say=stop)
    train(many, config, tmp_path / "parts", say=silent)
    whole, parts = ((tmp_path / name / "model" / REFERENCE).read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    reference = load_model(tmp_path / "whole" / "model").reference
    assert reference is not None
    assert (reference.rank, reference.slides) == (LEAST, LEAST)
    assert any("slides unlike the 15 training slides can be told" in line for line in said)


def test_a_training_slide_that_no_longer_can_be_read_is_left_out(
    many: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that leaves too few, it is said, and the run ends well."""
    first = next(row.slide for row in many if row.split == "train")
    answer = wsi_ats.train.reference.answer

    def broken(model: SlideModel, example: Example) -> PatientPrediction:
        if example.slides == (first,):
            raise SlideError("a tile cannot be read")
        return answer(model, example)

    monkeypatch.setattr(wsi_ats.train.reference, "answer", broken)
    said: list[str] = []
    train(many, settings("train.epochs=1"), tmp_path, say=said.append)
    assert any("cannot be told" in line for line in said)
    assert load_model(tmp_path / "model").reference is None


def test_of_few_slides_nothing_is_noted(trained: Path) -> None:
    assert not (trained / "model" / REFERENCE).exists()
