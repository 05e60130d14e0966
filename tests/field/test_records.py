"""Whatever lies in the place of a slide's files: it is not taken for a result, and nothing is written through it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.batches import good_slides, run, table, untimed
from tests.support.fake_model import calls
from wsi_ats.batch.store import SlideStore
from wsi_ats.errors import ConfigError


def changed(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    return spoil


def replaced(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def another(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


ODD = {
    "a key is missing": changed(lambda r: r.pop("tiles_read")),
    "text for a number": changed(lambda r: r.update(bytes_read="many")),
    "a number for a text": changed(lambda r: r.update(patient=7)),
    "true for a number": changed(lambda r: r.update(tiles_read=True)),
    "a list for an object": changed(lambda r: r.update(seconds=[1])),
    "no answers": changed(lambda r: r.update(answers=[])),
    "answers of another task": changed(lambda r: r["answers"][0].update(names=["a", "b", "c"])),
    "fewer values": changed(lambda r: r["answers"][0]["values"].pop()),
    "NaN": changed(lambda r: r["answers"][0].update(values=[float("nan"), 1.0])),
    "infinite": lambda path: (
        path.write_text(path.read_text().replace('"rounds": 1', '"rounds": 1e999')) and None
    ),
    "digits": lambda path: (
        path.write_text(path.read_text().replace('"rounds": 1', f'"rounds": {"9" * 9999}')) and None
    ),
    "large": changed(lambda r: r.update(bytes_read=10**30)),
    "brackets": replaced("[" * 100_000),
    "a list": replaced("[1, 2]"),
    "a number": replaced("3"),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00{") and None,
    "a folder": another(lambda path: path.mkdir()),
    "a link to nothing": another(lambda path: path.symlink_to("nowhere")),
    "a link to itself": another(lambda path: path.symlink_to(path.name)),
    "a pipe": another(lambda path: os.mkfifo(path)),
}


@pytest.mark.parametrize("name", ["result.json", "failure.json"])
def test_odd_records_are_no_records(tmp_path: Path, name: str) -> None:
    slides = good_slides(tmp_path, len(ODD))
    run(slides, tmp_path)
    before = untimed(tmp_path)
    for slide, spoil in zip(slides, ODD.values(), strict=True):
        store = SlideStore(tmp_path / "out", slide.id)
        if name == "failure.json":
            (store.folder / name).write_bytes((store.folder / "result.json").read_bytes())
            (store.folder / "result.json").unlink()
        spoil(store.folder / name)
        assert store.failure() is None, slide.id
    summary = run(slides, tmp_path)
    assert summary.ok
    assert len(calls(tmp_path / "model")) == 2 * len(ODD), "each was predicted again, with what it had"
    assert untimed(tmp_path) == before


def test_a_run_of_other_slides_meets_odd_records_without_a_word(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, len(ODD) + 1)
    run(slides, tmp_path)
    for slide, spoil in zip(slides, ODD.values(), strict=False):
        spoil(SlideStore(tmp_path / "out", slide.id).folder / "result.json")
    assert run(slides[-1:], tmp_path).progress.known == 1
    assert list(table(tmp_path).slide) == [slides[-1].id]


@pytest.mark.parametrize("name", ["result.json", ".claim", "attention.h5", ""])
def test_nothing_is_written_through_a_link_or_over_a_folder(tmp_path: Path, name: str) -> None:
    slides = good_slides(tmp_path, 2)
    run(slides, tmp_path)
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    mine.mkdir()
    (mine / "file").write_text("mine")
    folder = SlideStore(tmp_path / "out", "s0.tif").folder
    folder.rename(elsewhere)
    if name:  # a folder that holds something where a file is to be written
        mine.rename(folder) if not name else folder.mkdir()
        (folder / name).mkdir()
        (folder / name / "file").write_text("mine")
    else:  # a link: even to what is a result
        folder.symlink_to(elsewhere)
        before = (elsewhere / "result.json").stat().st_mtime_ns
    (failure,) = run(slides, tmp_path).failures
    assert (failure.slide, failure.stage) == ("s0.tif", "write")
    assert "is a link" in failure.error or "is a folder" in failure.error
    assert list(table(tmp_path).status) == ["failed", "done"]
    assert list(table(tmp_path, "failures.csv").slide) == ["s0.tif"]
    if name:
        assert (folder / name / "file").read_text() == "mine"
    else:
        assert (elsewhere / "result.json").stat().st_mtime_ns == before


def test_a_file_in_the_place_of_a_slides_folder_is_a_failed_row(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 2)
    (tmp_path / "out" / "slides").mkdir(parents=True)
    SlideStore(tmp_path / "out", "s1.tif").folder.write_text("mine")
    (failure,) = run(slides, tmp_path).failures
    assert "is no folder" in failure.error


def test_a_link_in_the_place_of_all_slides_is_refused(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "slides").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="slides is a link"):
        run(slides, tmp_path)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_links_in_the_place_of_files_are_replaced(tmp_path: Path) -> None:
    slides = good_slides(tmp_path, 1)
    mine = tmp_path / "mine"
    mine.write_text("mine")
    folder = SlideStore(tmp_path / "out", "s0.tif").folder
    folder.mkdir(parents=True)
    links = [tmp_path / "out" / name for name in ("run.json", "predictions.csv", "failures.csv")]
    links += [folder / name for name in ("result.json", "failure.json", "attention.h5")]
    for link in links:
        link.symlink_to(mine)
    assert run(slides, tmp_path).ok
    assert mine.read_text() == "mine"
    assert not any(link.is_symlink() for link in links)


def test_run_json_moves_while_the_batch_runs_and_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_ats.batch.run.TELL_EVERY", -1.0)
    seen: list[int] = []

    def look(_: object) -> None:
        log = json.loads((tmp_path / "out" / "run.json").read_text())
        assert (log["status"], log["end"]) == ("running", None)
        seen.append(log["slides"]["done"])

    argv = ("wsi-ats", "predict", "https://me:secret@host/a.svs?X-Amz-Signature=1f")
    run(good_slides(tmp_path, 3), tmp_path, on_progress=look, argv=argv)
    assert seen == [0, 1, 2]
    log = json.loads((tmp_path / "out" / "run.json").read_text())
    assert log["argv"] == ["wsi-ats", "predict", "https://host/a.svs"]
    assert log["updated"] == log["end"] >= log["start"]
