"""A batch with a stand-in model: isolation, resuming, two processes, a cluster, kill -9."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support.batches import QUICK, ROOT, good_slides, run, table, untimed
from tests.support.fake_model import calls, items, load, make_model, make_slide
from tests.support.tiffs import damage, picture, write_pyramid
from wsi_ats.batch.cluster import client_for, connect, local_cluster, threads_of
from wsi_ats.batch.executors import OnCluster
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.job import Job, Run, predict_slide, settled
from wsi_ats.batch.progress import ProgressReport, describe
from wsi_ats.batch.run import Progress, run_batch
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.batch.store import SlideStore, read_prediction, slide_folders
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.output import OutputError


def mixed_slides(folder: Path) -> list[SlideItem]:
    """Six slides: good, blank, good, a text file, one that the model stumbles over, good."""
    text = folder / "text.svs"
    good = [make_slide(folder / f"s{i}.tif", seed=i) for i in range(3)]
    text.write_text("this is no slide")
    blank, explode = make_slide(folder / "blank.tif", blank=True), make_slide(folder / "explode.tif")
    return items(good[0], blank, good[1], text, explode, good[2])


def test_a_slide_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    summary = run(mixed_slides(tmp_path), tmp_path)
    assert not summary.ok
    assert (summary.progress.done, summary.progress.failed, summary.progress.total) == (3, 3, 6)
    predictions = table(tmp_path)
    assert list(predictions.slide) == ["s0.tif", "blank.tif", "s1.tif", "text.svs", "explode.tif", "s2.tif"]
    assert list(predictions.status) == ["done", "failed", "done", "failed", "failed", "done"]
    failures = table(tmp_path, "failures.csv").set_index("slide")
    assert list(failures.index) == ["blank.tif", "text.svs", "explode.tif"]
    assert list(failures.stage) == ["tissue", "open", "predict"]
    assert failures.error["explode.tif"] == "RuntimeError: a bug, says the fake model"
    assert (failures.remedy != "").all()
    assert [failure.slide for failure in summary.failures] == list(failures.index)
    trace = SlideStore(tmp_path / "out", "explode.tif").failure()["traceback"]
    assert "raise RuntimeError" in trace
    assert (SlideStore(tmp_path / "out", "blank.tif").folder / "no-tissue.png").exists()


def test_files_of_a_slide(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 1)
    summary = run(slides, tmp_path, settings=PredictSettings(tiles=5), argv=("wsi-ats", "predict"))
    assert summary.ok
    assert summary.stages["total"] >= summary.stages["write"] > 0
    store = SlideStore(tmp_path / "out", "s0.tif")
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "attention.h5",
        "heatmap.png",
        "result.json",
    ]
    result, status = store.result(), slides[0].path.stat()
    assert (result["size_bytes"], result["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
    assert result["settings"]["tiles"] == result["tiles_read"] == 5
    prediction = read_prediction(store.folder)
    with h5py.File(store.folder / "attention.h5") as file:
        drawn = file["drawn"][:]
        total = file["contribution"][drawn].sum()
    chosen = prediction.classes.index(prediction.label)
    assert total == pytest.approx(prediction.contributions[:, chosen].sum(), rel=1e-5)
    row = table(tmp_path).iloc[0]
    assert float(row.prob_tumour) == pytest.approx(prediction.probabilities[1], rel=1e-5)
    assert (row.stderr_normal, row.stderr_tumour) == ("0.01", "")
    log = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (log["status"], log["argv"], log["config_hash"]) == (
        "finished",
        ["wsi-ats", "predict"],
        result["config_hash"],
    )


def test_damaged_tiles_are_counted_where_they_are_tolerated(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 3)
    path, whole = slides[1].path, picture(192, 256)
    write_pyramid(path, [whole, np.ascontiguousarray(whole[::4, ::4])], "deflate")
    for tile in (1, 6):
        damage(path, 0, tile, lambda data: bytes(len(data)))
    assert [failure.slide for failure in run(slides, tmp_path).failures] == ["s1.tif"]
    summary = run(slides, tmp_path, settings=replace(QUICK, tolerate_bad_tiles=2))
    assert summary.ok
    assert summary.progress.bad_tiles == 2
    assert list(table(tmp_path).bad_tiles) == ["0", "2", "0"]
    result = SlideStore(tmp_path / "out", "s1.tif").result()
    assert result["bad_tiles"] == [[0, 1, 0], [0, 2, 1]]
    again = run(slides, tmp_path, settings=replace(QUICK, tolerate_bad_tiles=2))
    assert (again.progress.known, again.progress.bad_tiles) == (3, 2)


def test_same_command_again_predicts_nothing(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 3)
    run(slides, tmp_path)
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    summary = run(slides, tmp_path)
    assert summary.ok
    assert summary.progress.known == 3
    assert len(calls(tmp_path / "model")) == 3
    assert (tmp_path / "out" / "predictions.csv").read_bytes() == before


def test_overwrite_predicts_all_again(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 2)
    run(slides, tmp_path)
    assert run(slides, tmp_path, overwrite=True).progress.known == 0
    assert len(calls(tmp_path / "model")) == 4


@pytest.mark.parametrize("change", ["slide", "settings", "model", "mpp", "half", "damaged"])
def test_what_is_stale_is_predicted_again(tmp_path: Path, change: str) -> None:
    slides, settings = good_slides(tmp_path, 2), QUICK
    run(slides, tmp_path)
    result = SlideStore(tmp_path / "out", "s1.tif").folder / "result.json"
    if change == "slide":
        os.utime(slides[1].path, ns=(1, 1))
    elif change == "settings":
        settings = replace(QUICK, seed=1)
    elif change == "model":
        make_model(tmp_path / "model", hash="other")
    elif change == "mpp":
        slides[1] = replace(slides[1], mpp=0.25)
    elif change == "half":
        result.unlink()
    else:
        result.write_bytes(result.read_bytes()[:100])
    summary = run(slides, tmp_path, settings=settings)
    again = 2 if change in ("settings", "model") else 1
    assert summary.ok
    assert Counter(calls(tmp_path / "model"))["s1.tif"] == 2
    assert summary.progress.known == 2 - again
    if change == "mpp":
        assert read_prediction(result.parent).mpp == (0.25, 0.25)


def test_failures_are_tried_again(tmp_path: Path) -> None:
    (missing,) = items(tmp_path / "late.tif")
    assert run([missing], tmp_path).progress.failed == 1
    make_slide(missing.path)
    assert run([missing], tmp_path).ok
    assert table(tmp_path, "failures.csv").empty
    assert list(table(tmp_path).status) == ["done"]


def test_slides_of_one_name_do_not_collide_and_doubles_are_done_once(tmp_path: Path) -> None:
    paths = [make_slide(tmp_path / side / "a.tif", seed) for seed, side in enumerate(("left", "right"))]
    slides = [SlideItem(f"{path.parent.name}/a.tif", path) for path in paths]
    run([*slides, slides[0]], tmp_path)
    predictions = table(tmp_path)
    assert list(predictions.slide) == ["left/a.tif", "right/a.tif", "left/a.tif"], "a row an item"
    assert predictions.prob_tumour[0] == predictions.prob_tumour[2] != predictions.prob_tumour[1]
    assert len(calls(tmp_path / "model")) == 2


def test_columns_of_the_manifest_are_carried_through(tmp_path: Path) -> None:
    (slide,) = good_slides(tmp_path, 1)
    row = replace(slide, patient="007", extra={"label": "tumour", "status": "ours too"})
    run([row], tmp_path)
    columns = list(table(tmp_path).columns)
    assert columns[:3] == ["slide", "patient", "prediction"]
    assert columns[-2:] == ["label", "manifest_status"]
    assert table(tmp_path).iloc[0][["patient", "label", "manifest_status", "status"]].tolist() == [
        "007",
        "tumour",
        "ours too",
        "done",
    ]


def test_runs_with_other_slides_share_an_output_folder(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 4)
    run(slides[2:], tmp_path)
    run(slides[:2], tmp_path)
    assert list(table(tmp_path).slide) == ["s0.tif", "s1.tif", "s2.tif", "s3.tif"]
    run(slides[:1], tmp_path, settings=replace(QUICK, seed=5))
    assert list(table(tmp_path).slide) == ["s0.tif"], "results of other settings are not mixed in"


def test_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 3)

    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(slides, tmp_path, on_progress=stop)
    assert list(table(tmp_path).status) == ["done", "done", "pending"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"
    assert run(slides, tmp_path).progress.known == 2


def test_a_model_that_changes_stops_the_batch(tmp_path: Path) -> None:
    (slide,) = good_slides(tmp_path, 1)
    model = make_model(tmp_path / "model", hash="new")
    job = Job(slide, tmp_path, model, "old", "config", QUICK, Run("run", time.time()), load)
    with pytest.raises(ModelError, match="hash is new, at the start it was old"):
        predict_slide(job)
    with pytest.raises(ModelError, match="file system that every worker sees"):
        predict_slide(replace(job, model=tmp_path / "elsewhere"))
    with pytest.raises(OutputError, match="file system that every worker sees"):
        predict_slide(replace(job, out=tmp_path / "elsewhere"))


def test_a_model_that_cannot_be_loaded_is_told_first(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no fake model"):
        run_batch(good_slides(tmp_path, 1), tmp_path / "out", QUICK, model=tmp_path, load=load)
    assert not (tmp_path / "out").exists()


def test_slides_without_a_folder_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slides = good_slides(tmp_path, 3)
    run(slides[:1], tmp_path)
    asked: list[str] = []
    monkeypatch.setattr("wsi_ats.batch.run.settled", lambda job: asked.append(job.item.id) or settled(job))
    assert run(slides, tmp_path).progress.known == 1
    assert asked == [slides[0].id]
    assert slide_folders(tmp_path / "nowhere") == frozenset()


def test_a_task_carries_no_pixels(tmp_path: Path) -> None:
    (slide,) = good_slides(tmp_path, 1)
    job = Job(slide, tmp_path, tmp_path, "m", "c", QUICK, Run("run", time.time()), load)
    assert len(pickle.dumps(job)) < 2_000


@pytest.mark.parametrize(
    "wrong", [{"tiles": 0}, {"repeats": 0}, {"seed": -1}, {"mpp": 0.0}, {"tolerance": -1.0}]
)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PredictSettings(**wrong)


def test_every_setting_counts_in_the_hash() -> None:
    changes = {
        "tiles": 1,
        "sampler": "all",
        "repeats": 1,
        "seed": 1,
        "heatmap": False,
        "mpp": 0.5,
        "override_mpp": 0.5,
        "by": "patient",
    }
    changes |= {"tolerate_bad_tiles": 1, "tolerance": 0.1}
    assert set(changes) == set(PredictSettings.__dataclass_fields__)
    hashes = {replace(PredictSettings(), **{name: value}).hash("m") for name, value in changes.items()}
    assert len(hashes | {PredictSettings().hash("m"), PredictSettings().hash("n")}) == 12


# In several processes

SCRIPT = """
import sys
from pathlib import Path
from tests.support.fake_model import items, load
from tests.batch.test_batch import QUICK
from wsi_ats.batch.run import run_batch

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    slides = items(*sorted(folder.glob("*.tif")))
    run_batch(slides, folder / "out", QUICK, model=folder / "model", load=load)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The batch of all slides of `folder`, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=ROOT, env=environment)


def wait_until(condition: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_kill_9_and_the_same_command_again(tmp_path: Path) -> None:
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    slides = good_slides(quiet, 5)
    run(slides, quiet)
    good_slides(killed, 5)
    model = make_model(killed / "model", delay=0.5)
    process = start(killed)
    wait_until(lambda: len(calls(model)) == 3)
    process.send_signal(signal.SIGKILL)
    # Not waited for yet: the process is a zombie now, which must not pass for alive.
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "Z")
    assert SlideStore(killed / "out", "s2.tif").claim.exists()
    summary = run(items(*sorted(killed.glob("*.tif"))), killed)
    assert process.wait() == -signal.SIGKILL
    assert summary.progress.known == 2
    assert untimed(killed) == untimed(quiet)
    assert Counter(calls(model)) == {"s0.tif": 1, "s1.tif": 1, "s2.tif": 2, "s3.tif": 1, "s4.tif": 1}
    leftovers = list((killed / "out").rglob(".*"))
    assert leftovers == []


def test_two_processes_on_one_folder_share_the_work(tmp_path: Path) -> None:
    good_slides(tmp_path, 7)
    make_slide(tmp_path / "z-explode.tif")
    slides = items(*sorted(tmp_path.glob("*.tif")))
    model = make_model(tmp_path / "model", delay=0.3)
    other = start(tmp_path)
    wait_until(lambda: calls(model))
    summary = run(slides, tmp_path)
    assert other.wait() == 0
    assert sorted(calls(model)) == [slide.id for slide in slides], "each once, the one that fails too"
    assert (summary.progress.done, summary.progress.failed) == (7, 1)
    assert 0 < summary.progress.known < 7, "each process did some"
    assert list(table(tmp_path).status) == ["done"] * 7 + ["failed"]


@pytest.mark.slow
def test_a_cluster_gives_what_one_process_gives(tmp_path: Path) -> None:
    serial, spread = tmp_path / "serial", tmp_path / "spread"
    run(mixed_slides(serial), serial)
    slides = mixed_slides(spread)
    crash = items(make_slide(spread / "crash.tif"))
    make_model(spread / "model", delay=0.2)
    environment = dict(os.environ)
    with local_cluster(2) as client:
        threads = set(client.run(os.getenv, "OMP_NUM_THREADS").values())
        assert threads == {str(threads_of(2))}
        with connect(client.scheduler.address) as second:
            assert OnCluster(second, predict_slide).capacity() == 4
        summary = run(slides, spread, client=client)
        assert (summary.progress.done, summary.progress.failed) == (3, 3)
        assert untimed(spread) == untimed(serial)
        columns = ["slide", "stage"]
        assert table(spread, "failures.csv")[columns].equals(table(serial, "failures.csv")[columns])
        workers = {line.split()[1] for line in (spread / "model/log.txt").read_text().splitlines()}
        assert len(workers) == 2
        assert str(os.getpid()) not in workers
        # A slide that ends its worker: it fails alone, after a second chance.
        summary = run([*crash, *good_slides(spread, 6)], spread, client=client)
    assert (summary.progress.done, summary.progress.failed) == (6, 1)
    assert summary.failures[0].slide == "crash.tif"
    assert summary.failures[0].stage == "worker"
    assert Counter(calls(spread / "model"))["crash.tif"] == 2
    assert dict(os.environ) == environment


def test_a_single_slide_needs_no_cluster_and_two_places_are_one_too_many() -> None:
    for slides, workers in ((1, None), (9, 0)):
        with client_for(slides, workers=workers, scheduler=None, device="cpu") as client:
            assert client is None
    with pytest.raises(ConfigError, match="workers is 2 and scheduler is tcp://here:1"):
        client_for(9, workers=2, scheduler="tcp://here:1", device="cpu")


@pytest.mark.parametrize(
    ("wanted", "workers", "threads"),
    [("", 1, 8), ("", 3, 2), ("", 99, 1), ("1", 1, 1), ("4", 1, 4), ("16", 4, 2), ("0", 1, 8), ("a", 1, 8)],
)
def test_workers_share_the_cores_and_take_fewer_threads_where_told(
    monkeypatch: pytest.MonkeyPatch, wanted: str, workers: int, threads: int
) -> None:
    monkeypatch.setattr("wsi_ats.batch.cluster.cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert threads_of(workers) == threads


def test_no_scheduler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_ats.batch.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(ConfigError, match="no Dask scheduler answers"), connect("tcp://127.0.0.1:9"):
        pass
    with pytest.raises(ConfigError, match="workers is 0"), local_cluster(0):
        pass


# Progress


def test_progress_says_rates_and_time_left() -> None:
    progress = Progress(total=100, done=30, known=10, failed=5, tiles=500, seconds=50.0, rate=0.5)
    line = describe(progress)
    assert line == "35/100 slides, 10 done before, 5 failed, 10 tiles/s, 0.50 slides/s, 2 min left"
    early = replace(progress, rate=0.0, waiting="waiting for workers")
    assert describe(early) == (
        "35/100 slides, 10 done before, 5 failed, 10 tiles/s, waiting for workers (after 50 s)"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_report(terminal: bool) -> None:
    from io import StringIO

    from rich.console import Console

    text = StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    with ProgressReport(console) as report:
        for done in range(1, 4):
            report(Progress(total=3, done=done, seconds=float(done), tiles=done * 8, rate=1.0))
    assert "3/3 slides, 8 tiles/s, 1.00 slides/s" in text.getvalue()
    if not terminal:
        assert text.getvalue().count("\n") == 2, "the first line and the last"
