"""Evidence figures against the slow and obvious: the model's own answer from each set of tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import SmallRun
from tests.support.commands import run
from tests.test_docs import keys_of_table
from wsi_ats.embed import TileVectors
from wsi_ats.evaluate.evidence import slide_evidence, tiles_of
from wsi_ats.lowres.prepare import PreparedSlide, prepare
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import load_model
from wsi_ats.sampling import Draws
from wsi_ats.slides import open_slide
from wsi_ats.statistics.evidence import Tiles, evidence_of


@pytest.fixture(params=["refined", "plain"])
def model(request: pytest.FixtureRequest, small_run: SmallRun) -> AttentionSampler:
    """A small model whose head and score tell tiles apart, with and without refined attention."""
    model = load_model(small_run.model)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.linear.weight, std=0.3)
    if request.param == "plain":
        model.score = None
    elif model.score is not None:
        torch.nn.init.normal_(model.score.out.weight, std=0.5)
    return model


def prepared(model: AttentionSampler, small_run: SmallRun) -> PreparedSlide:
    return prepare(open_slide(small_run.slides[1]), model.config, keep_open=True)


@torch.inference_mode()
def brute_force(model: AttentionSampler, slide: PreparedSlide, chosen: np.ndarray) -> np.ndarray:
    """Probabilities from some of the tissue tiles: their attention made to sum to 1, then the model as it is."""
    every = model.attend(slide).all()
    vectors = TileVectors(model.embed)
    vectors.read([every])
    kept = every.of(Draws(torch.from_numpy(chosen), torch.zeros(len(chosen))))
    log_p = every.log_p.clone()
    log_p -= log_p[kept.draws.cells].logsumexp(0)
    kept = type(kept)(kept.slide, log_p, kept.draws, kept.log_opened)
    outputs = model.head(model.estimate(kept, vectors.of(kept)).phi)
    return model.tasks[0].values(outputs[: model.tasks[0].outputs]).numpy()


def test_every_set_of_tiles_answers_as_the_model_does(model: AttentionSampler, small_run: SmallRun) -> None:
    slide = prepared(model, small_run)
    tiles = tiles_of(model, slide)
    exact = model.predict(small_run.slides[1], sampler="all")
    said, found = slide_evidence(model, slide, seed=3, orders=4)
    answer = model.classes.index(said)
    assert len(found) == len(tiles) == len(exact.tissue)
    assert found.sure == pytest.approx(exact.probabilities[answer], abs=1e-5)
    order = tiles.by_attention()
    shares = tiles.shares.mean(0)[order]
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
    for k in (1, 2, 5, len(order) - 1):
        kept, left = brute_force(model, slide, order[:k]), brute_force(model, slide, order[k:])
        assert found.kept.by_attention[k - 1] == pytest.approx(kept[answer], abs=1e-4)
        assert found.removed.by_attention[k] == pytest.approx(left[answer], abs=1e-4)
    assert np.ptp(found.kept.by_attention) > 0.01
    # Random orders end, and begin, where all tiles are.
    assert found.kept.at_random[:, -1] == pytest.approx(found.sure)
    assert found.removed.at_random[:, 0] == pytest.approx(found.sure)
    again = slide_evidence(model, slide, seed=3, orders=4)[1]
    assert np.array_equal(again.kept.at_random, found.kept.at_random)
    assert not np.array_equal(
        slide_evidence(model, slide, seed=4, orders=4)[1].kept.at_random, again.kept.at_random
    )


def test_figures_of_a_slide_whose_answer_rests_on_three_tiles() -> None:
    rng = np.random.default_rng(0)
    outputs = np.full((200, 1), -4.0)
    outputs[[7, 70, 170]] = 12.0
    shares = np.full(200, 0.5 / 197)
    shares[[7, 70, 170]] = 0.5 / 3
    tiles = Tiles(np.log(shares)[None], outputs[None])

    def sureness(outputs: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-outputs[:, 0]))

    found = evidence_of(tiles, sureness, rng, 30)
    assert found.sure == pytest.approx(sureness(np.array([[4.0]]))[0])
    assert found.minimal == 1
    assert found.minimal_at_random is not None
    assert found.minimal_at_random > 20
    assert found.removed.by_attention[3] == pytest.approx(sureness(np.array([[-4.0]]))[0])
    assert found.kept.area > found.kept.random_areas.max()
    assert found.removed.area < found.removed.random_areas.min()


def test_tiles_of_next_to_no_attention_have_an_answer() -> None:
    tiles = Tiles(np.array([[0.0, -2000.0, -3000.0]]), np.array([[[1.0], [5.0], [7.0]]]))
    assert tiles.of_first(tiles.by_attention()).ravel() == pytest.approx([1, 1, 1])
    assert tiles.without_first(tiles.by_attention()).ravel() == pytest.approx([1, 6, 7])


def test_the_command_and_its_page(small_run: SmallRun, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 no slide")
    slides = [str(path) for path in small_run.slides[:2]]
    done = run("evidence", str(small_run.model), *slides, str(broken), "--out", str(tmp_path / "o"), status=1)
    assert "1 slide(s) failed" in done.stderr
    table = pd.read_csv(tmp_path / "o" / "evidence.csv")
    assert list(table.slide) == slides
    assert {*table.columns} == keys_of_table("evidence.csv")
    assert (table.kept_area.between(0, 1) & table.removed_area.between(0, 1)).all()
    told = json.loads((tmp_path / "o" / "evidence.json").read_text())
    assert {*told} == keys_of_table("evidence.json")
    assert [point["tiles"] for point in told["curve"]][:3] == [1, 2, 4]
    last = told["curve"][-1]
    assert last["kept"] == pytest.approx(table.probability.mean(), abs=1e-5)
    assert last["removed"] is None
    assert "How many tiles the answers need" in (tmp_path / "o" / "report.html").read_text()
