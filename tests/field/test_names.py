"""Names that are not UTF-8, end lines, obey terminals or compute in spreadsheets: told, joined and resumed."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pandas as pd

from tests.support.batches import run, table, untimed
from tests.support.commands import run as command
from tests.support.fake_model import calls, make_slide
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.store import SlideStore, folder_name
from wsi_ats.errors import Failure
from wsi_ats.shown import cell

NAMES = [
    b"latin-\xe9\xff.tif",
    b"line\nend.tif",
    b"carriage\rreturn.tif",
    b"esc\x1b[31mred.tif",
    b'comma, and "quotes".tif',
    b"=cmd|' -C calc'!A0.tif",
    b"+1.tif",
    b"-1.tif",
    b"@x.tif",
    "\u202etfi.exe.tif".encode(),
    "\u2028line.tif".encode(),
    b"\xed\xb2\x80surrogate.tif",
    b" .tif",
    b"y" * 240 + b".tif",
]


def slides_of(folder: Path, *, broken: bool) -> list[SlideItem]:
    """A slide of every name; broken: a file that is none."""
    folder.mkdir()
    made = make_slide(folder / "made.slide")
    found = []
    for name in map(os.fsdecode, NAMES):
        if broken:
            (folder / name).write_text("no slide")
        else:
            shutil.copy(made, folder / name)
        found.append(SlideItem(name, folder / name, extra={"=site": f"-{name}"}, patient=name))
    return found


def test_every_name_is_done_or_failed_told_and_resumed(tmp_path: Path) -> None:
    good, bad = slides_of(tmp_path / "good", broken=False), slides_of(tmp_path / "bad", broken=True)
    bad = [SlideItem(f"bad/{item.id}", item.path) for item in bad]
    summary = run([*good, *bad], tmp_path)
    assert (summary.progress.done, summary.progress.failed) == (len(good), len(bad))
    predictions, failures = table(tmp_path), table(tmp_path, "failures.csv")
    assert list(predictions.status) == ["done"] * len(good) + ["failed"] * len(bad)
    assert len(failures) == len(bad)
    for name in ("predictions.csv", "failures.csv"):
        text = (tmp_path / "out" / name).read_bytes().decode("utf-8")
        lines = text.split("\n")
        assert lines[-1] == ""
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert len(lines) - 1 == len(rows) == len(pd.read_csv(io.StringIO(text))) + 1
        assert all(len(row) == len(rows[0]) for row in rows)
        for entry in (entry for row in rows for entry in row):
            assert entry.isprintable()
            assert not entry.startswith(("=", "@"))
    assert list(predictions.slide[:2]) == ["latin-\\xe9\\xff.tif", "line\\nend.tif"]
    again = run([*good, *bad], tmp_path)
    assert again.progress.known == len(good)
    assert len(calls(tmp_path / "model")) == len(good), "none was predicted twice"
    before = untimed(tmp_path)
    run(good[:1], tmp_path)
    assert sorted(table(tmp_path).slide) == sorted(pd.read_csv(io.StringIO(before)).slide), (
        "whoever writes the table"
    )


def test_records_are_utf8_and_keep_the_name(tmp_path: Path) -> None:
    good = slides_of(tmp_path / "good", broken=False)
    run(good, tmp_path)
    for item in good:
        path = SlideStore(tmp_path / "out", item.id).folder / "result.json"
        record = json.loads(path.read_bytes().decode("utf-8"))
        assert record["slide"] == item.id
        assert os.fsencode(record["path"]) == os.fsencode(item.path)


def test_a_name_that_no_file_can_have_fails_alone(tmp_path: Path) -> None:
    good = slides_of(tmp_path / "good", broken=False)[:1]
    odd = [SlideItem(name, tmp_path / name) for name in ("nul\0byte.tif", "z" * 5000 + ".tif")]
    summary = run([*odd, *good], tmp_path)
    assert [failure.slide for failure in summary.failures] == [item.id for item in odd]
    assert list(table(tmp_path).status) == ["failed", "failed", "done"]


def test_the_terminal_shows_names_and_does_not_obey_them(place: Path) -> None:
    Path("odd").mkdir()
    for name in map(os.fsdecode, NAMES[:6]):
        Path("odd", name).write_text("no slide")
    result = command("predict", "run/model", "odd", "--out", "out", "--workers", "0", status=1)
    assert "failed: odd/latin-\\xe9\\xff.tif" in result.stderr
    assert "failed: odd/line\\nend.tif" in result.stderr
    assert len(pd.read_csv("out/failures.csv")) == 6
    assert set(pd.read_csv("out/predictions.csv").status) == {"failed"}


def test_a_signature_of_an_address_is_in_no_name_of_a_folder() -> None:
    one, other = (f"https://host/a.svs?X-Amz-Signature={secret}" for secret in ("123456", "abcdef"))
    assert "123456" not in folder_name(one)
    assert folder_name(one) != folder_name(other)


def test_tables_of_a_training_run_show_names_and_know_them_again(tmp_path: Path) -> None:
    from wsi_ats.train.folder import read_failures, write_failures

    failures = [Failure(os.fsdecode(name), "tiles", "no", "none") for name in NAMES]
    write_failures(tmp_path, failures)
    back = read_failures(tmp_path)
    assert [failure.slide for failure in back] == [cell(failure.slide) for failure in failures]
    write_failures(tmp_path, back)
    assert read_failures(tmp_path) == back
    assert len(pd.read_csv(tmp_path / "failures.csv")) == len(NAMES)
