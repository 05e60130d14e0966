"""An error is 0 where every tile was read, and nowhere else: draws that were all alike know nothing of other tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.heatmap.test_picture import texts
from tests.test_model import model_with
from wsi_ats import open_slide
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.model import AttentionSampler
from wsi_ats.predict import predict_prepared
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.synthetic.phantom import Phantom, write_phantom
from wsi_ats.tasks.answer import COVERS, UNKNOWN
from wsi_ats.tasks.spread import LEAST_ERROR


@pytest.fixture(scope="module")
def model() -> AttentionSampler:
    """A model whose attention is all but its smoothing on one cell."""
    model = model_with()
    *_, last = (m for m in model.attention.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        last.weight *= 1e4
    return model


@pytest.fixture(scope="module")
def prepared(model: AttentionSampler, tmp_path_factory: pytest.TempPathFactory) -> PreparedSlide:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_phantom(path, Phantom(size=1536, decoys=0, lesion=False, seed=2))
    with open_slide(path) as slide:
        return prepare(slide, model.config)


def predicted(model: AttentionSampler, prepared: PreparedSlide, **reading: object) -> Prediction:
    return predict_prepared(model, prepared, Reading.of(**reading))  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["systematic", "unordered", "priority"])
def test_a_budget_is_read_and_its_error_known_though_one_cell_has_all_attention(
    model: AttentionSampler, prepared: PreparedSlide, sampler: str
) -> None:
    answer = predicted(model, prepared, tiles=4, sampler=sampler)
    assert answer.tiles_read == 4
    assert answer.rounds == 3, "one is always read"
    assert (answer.stderr > 0).all()
    assert COVERS in repr(answer)


@pytest.mark.parametrize(
    "reading", [{"tiles": 4, "repeats": 1}, {"tiles": 1}, {"tiles": 4, "sampler": "top"}]
)
def test_a_draw_that_tells_nothing_of_its_error_says_so(
    model: AttentionSampler, prepared: PreparedSlide, reading: dict[str, object]
) -> None:
    answer = predicted(model, prepared, **reading)
    for part in (answer.stderr, answer.low, answer.high):
        assert np.isnan(part).all()
    assert UNKNOWN in repr(answer)
    assert COVERS not in repr(answer)


def test_an_exact_answer_and_rounds_that_differ_know_theirs(
    model: AttentionSampler, prepared: PreparedSlide
) -> None:
    assert (predicted(model, prepared, sampler="all").stderr == 0).all()
    assert (predicted(model, prepared, tiles=64).stderr > 0).all()


def test_a_reading_goes_on_where_its_error_is_not_known(
    model: AttentionSampler, prepared: PreparedSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "wsi_ats.predict.without_each", lambda draws, *_, **__: torch.empty(0, len(draws)).double()
    )
    assert predicted(model, prepared, tiles=80, tolerance=0.5).tiles_read == 80


def test_a_model_whose_answer_depends_on_no_tile_claims_no_exact_one(prepared: PreparedSlide) -> None:
    """Rounds that differ and answers that do not, as those that round to 1: the least error there is, not 0."""
    model = model_with()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    assert predicted(model, prepared, tiles=8).stderr.tolist() == [LEAST_ERROR, LEAST_ERROR]
    assert "0.500 ± <0.001" in repr(predicted(model, prepared, tiles=8))


def test_pictures_say_that_it_is_unknown(model: AttentionSampler, prepared: PreparedSlide) -> None:
    words = texts(predicted(model, prepared, tiles=4, repeats=1).heatmap().figure())
    assert any(UNKNOWN in text for text in words)
    exact = texts(predicted(model, prepared, sampler="all").heatmap().figure())
    assert any(text.startswith("no ±: every tissue tile was read") for text in exact)
    assert "outline of the tissue; every tile in it was read" in exact, "the legend"
