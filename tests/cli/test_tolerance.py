"""`--tolerance` as users give it: what is read, what the tables say, what starts over, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.attention.test_two_levels import model_with
from tests.conftest import SmallRun
from tests.support.commands import run
from wsi_ats.model_folder import save_model
from wsi_ats.synthetic.phantom import Phantom, write_phantom

BUDGET = 60


def predict(model: Path, slides: list[Path], out: Path, *more: str) -> pd.DataFrame:
    """predictions.csv of a reading of at least half of the budget."""
    usual = ("--out", out, "--tiles", str(BUDGET), "--no-heatmaps", "--workers", "0")
    run("predict", model, *slides, *usual, *more)
    return pd.read_csv(out / "predictions.csv")


def reach(table: pd.DataFrame) -> pd.Series:
    """How far the interval of the probability of a tumour reaches from it."""
    return pd.concat(
        [table.high_tumour - table.prob_tumour, table.prob_tumour - table.low_tumour], axis=1
    ).max(axis=1)


def records(out: Path, table: pd.DataFrame) -> list[dict]:
    """result.json of every slide, in the order of the table."""
    found = [json.loads(path.read_text()) for path in (out / "slides").glob("*/result.json")]
    by_slide = {record["slide"]: record for record in found}
    return [by_slide[slide] for slide in table.slide]


@pytest.fixture(scope="module")
def loose(small_run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the loosest reading."""
    out = tmp_path_factory.mktemp("loose") / "out"
    predict(small_run.model, small_run.slides, out, "--tolerance", "10")
    return out


def test_the_tighter_the_more_is_read(small_run: SmallRun, loose: Path, tmp_path: Path) -> None:
    easy = pd.read_csv(loose / "predictions.csv")
    hard = predict(small_run.model, small_run.slides, tmp_path, "--tolerance", "0")
    assert (easy.tiles_read == BUDGET // 2).all()
    assert (hard.tiles_read == BUDGET).all()
    assert (easy.bytes_read < hard.bytes_read).all()


def test_a_slide_stops_within_the_tolerance_or_with_its_budget_spent(
    small_run: SmallRun, loose: Path, tmp_path: Path
) -> None:
    tolerance = float(f"{reach(pd.read_csv(loose / 'predictions.csv')).max():.2g}")
    table = predict(small_run.model, small_run.slides, tmp_path, "--tolerance", str(tolerance))
    settled = reach(table) <= tolerance
    assert settled.any()
    assert (settled | (table.tiles_read == BUDGET)).all()


def test_table_and_files_say_what_was_read_and_how_sure_it_is(loose: Path) -> None:
    table = pd.read_csv(loose / "predictions.csv")
    for row, record in zip(table.itertuples(), records(loose, table), strict=True):
        assert record["settings"]["tolerance"] == 10
        assert (record["tiles_read"], record["rounds"]) == (row.tiles_read, row.rounds)
        (answer,) = record["answers"]
        assert answer["stderr"][1] == pytest.approx(row.stderr_tumour, rel=1e-5)
        assert answer["stderr"][1] > 0
        assert answer["low"][1] == pytest.approx(row.low_tumour, rel=1e-5)
        assert answer["high"][1] == pytest.approx(row.high_tumour, rel=1e-5)
        assert 0 <= row.low_tumour < row.prob_tumour < row.high_tumour <= 1
    assert json.loads((loose / "run.json").read_text())["config"]["tolerance"] == 10


def test_another_tolerance_starts_over_and_the_same_goes_on(small_run: SmallRun, tmp_path: Path) -> None:
    one, two = small_run.slides[:2]
    how = ("--out", tmp_path, "--no-heatmaps", "--workers", "0", "--tolerance")
    run("predict", small_run.model, one, *how, "0.2")
    same = run("predict", small_run.model, one, two, *how, "0.2")
    assert "2 of 2 slides done (1 of them before)" in same.stdout
    other = run("predict", small_run.model, one, two, *how, "0.1")
    assert "2 of 2 slides done (0 of them before)" in other.stdout
    fixed = run("predict", small_run.model, one, two, *how[:-1])
    assert "2 of 2 slides done (0 of them before)" in fixed.stdout


def test_a_heatmap_takes_a_tolerance(small_run: SmallRun, tmp_path: Path) -> None:
    picture = tmp_path / "h.png"
    said = run("heatmap", small_run.model, small_run.slides[1], "--out", picture, "--tolerance", "0.1").stdout
    assert "±" in said
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize("command", ["predict", "heatmap"])
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["-0.1"], "'--tolerance'"),
        (["little"], "'--tolerance'"),
        (["nan"], "tolerance"),
        (["inf"], "tolerance is inf; it must be a number of at least 0"),
        (["0.1", "--sampler", "all"], "draws nothing at random"),
        (["0.1", "--sampler", "top"], "draws nothing at random"),
        (["0.1", "--repeats", "1"], "one round alone has no spread"),
        (["0.1", "--tiles", "1"], "one round alone has no spread"),
    ],
)
def test_what_makes_no_sense_is_refused(
    small_run: SmallRun, tmp_path: Path, command: str, more: list[str], says: str
) -> None:
    out = tmp_path / "out.png"
    result = run(command, small_run.model, small_run.slides[0], "--out", out, "--tolerance", *more, status=2)
    assert says in " ".join(result.stderr.split())
    assert not out.exists()


def test_two_levels_of_attention_take_a_tolerance(tmp_path: Path) -> None:
    slide = tmp_path / "slide.tif"
    write_phantom(slide, Phantom(size=1600, decoys=0, lesion=True, seed=1))
    save_model(model_with(), tmp_path / "model", "untrained")
    easy, hard = (
        predict(tmp_path / "model", [slide], tmp_path / tolerance, "--tolerance", tolerance).iloc[0]
        for tolerance in ("10", "0")
    )
    assert easy.tiles_read < hard.tiles_read == BUDGET
    assert hard.stderr_tumour > 0
