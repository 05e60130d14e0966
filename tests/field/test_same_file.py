"""A slide is its file, however its name is spelt: no second opinion on it in training, no second reading in a batch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.support.fake_model import calls, load, make_model, make_slide
from wsi_ats.batch.inputs import find_slides
from wsi_ats.batch.run import Summary, run_batch
from wsi_ats.batch.settings import PredictSettings
from wsi_ats.errors import ConfigError
from wsi_ats.manifest import read_manifest
from wsi_ats.manifest.files import file_key


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a slide under several names, and another one."""
    monkeypatch.chdir(tmp_path)
    make_slide(Path("a.tif"), seed=1)
    make_slide(Path("other.tif"), seed=2)
    Path("link.tif").symlink_to("a.tif")
    os.link("a.tif", "hard.tif")
    shutil.copy("a.tif", "copy.tif")
    Path("folder").symlink_to(".")
    return tmp_path


NAMES = ["{home}/a.tif", "./a.tif", "link.tif", "hard.tif", "folder/a.tif", "copy.tif", "file://{home}/a.tif"]


def manifest(text: str) -> Path:
    Path("m.csv").write_text(text)
    return Path("m.csv")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ("x,P1,train", "y,P1,train", "label is 'x' and 'y'"),
        ("x,P1,train", "x,P2,train", "patient is 'P1' and 'P2'"),
        ("x,P1,", "x,,", "patient is 'P1' and ''"),
        ("x,P1,train", "x,P1,val", "split is 'train' and 'val'"),
    ],
)
def test_two_statements_on_one_file_are_an_error(
    home: Path, name: str, one: str, other: str, told: str
) -> None:
    name = name.format(home=home)
    path = manifest(f"slide,label,patient,split\na.tif,{one}\nother.tif,y,P3,\n{name},{other}\n")
    with pytest.raises(ConfigError) as caught:
        read_manifest(path)
    for word in ("'a.tif' twice", "row 3", "row 1", told):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_statement_again_is_taken_once_and_told(home: Path, name: str) -> None:
    path = manifest(f"slide,label\na.tif,x\nother.tif,y\n{name.format(home=home)},x\n")
    with pytest.warns(UserWarning, match=r"each is taken once: row 3, .* row 1, 'a\.tif'"):
        assert [row.slide for row in read_manifest(path)] == ["a.tif", "other.tif"]


def test_files_that_are_equal_in_size_alone_are_two(home: Path) -> None:
    content = bytearray(Path("a.tif").read_bytes())
    content[len(content) // 3] ^= 1  # where the samples do not look
    large = bytes(content) + bytes(10 << 16)
    Path("b.tif").write_bytes(large)
    content[len(content) // 3] ^= 2
    Path("c.tif").write_bytes(bytes(content) + bytes(10 << 16))
    assert Path("b.tif").stat().st_size == Path("c.tif").stat().st_size
    Path("empty.tif").touch()
    Path("void.tif").touch()
    path = manifest("slide,label\nb.tif,x\nc.tif,y\nempty.tif,x\nvoid.tif,y\nmissing.tif,x\ngone.tif,y\n")
    assert len(read_manifest(path)) == 6


# ---- In a batch


def predict(*arguments: str | Path, out: str = "out", settings: PredictSettings | None = None) -> Summary:
    if not Path("model").exists():
        make_model(Path("model"))
    settings = settings or PredictSettings(tiles=5, heatmap=False)
    return run_batch(find_slides(arguments), out, settings, model=Path("model").absolute(), load=load)


def table(name: str = "predictions.csv") -> pd.DataFrame:
    return pd.read_csv(Path("out", name), keep_default_na=False, dtype=str)


def test_every_row_of_a_manifest_is_kept_and_every_file_read_once(home: Path) -> None:
    rows = ["a.tif,x", "other.tif,y", f"{home}/a.tif,z", "link.tif,x", "a.tif,w", "hard.tif,v"]
    summary = predict(manifest("slide,label\n" + "\n".join(rows) + "\n"))
    assert (summary.progress.total, summary.ok) == (2, True)
    assert sorted(calls(Path("model"))) == ["a.tif", "other.tif"]
    found = table()
    assert [f"{row.slide},{row.label}" for row in found.itertuples()] == rows
    assert set(found.prob_tumour[[0, 2, 3, 4, 5]]) == {found.prob_tumour[0]} != {found.prob_tumour[1]}
    assert list(found.notes) == ["", "", "same file as a.tif", "same file as a.tif", "", "same file as a.tif"]
    before = Path("out/predictions.csv").read_bytes()
    predict("m.csv")
    assert (len(calls(Path("model"))), Path("out/predictions.csv").read_bytes()) == (2, before)


def test_rows_of_a_file_that_fails_all_fail(home: Path) -> None:
    Path("text.svs").write_text("this is no slide")
    Path("again.svs").symlink_to("text.svs")
    summary = predict(manifest("slide,label\ntext.svs,x\nagain.svs,y\ntext.svs,z\n"))
    assert (summary.progress.failed, len(summary.failures)) == (1, 1)
    assert list(table().status) == ["failed"] * 3
    assert list(table("failures.csv").slide) == ["text.svs", "again.svs"], "each id once"


def test_two_scales_of_one_file_are_two_predictions(home: Path) -> None:
    predict(manifest("slide,mpp\na.tif,0.25\nlink.tif,0.5\n"))
    assert (len(calls(Path("model"))), list(table().notes.str.contains("same file"))) == (2, [False, False])


def test_the_same_folder_by_its_absolute_path_is_not_predicted_again_nor_listed_twice(home: Path) -> None:
    Path("slides").mkdir()
    for seed in range(3):
        make_slide(Path(f"slides/{seed}.tif"), seed)
    predict("slides")
    first = table()
    summary = predict(home / "slides")
    assert (summary.progress.known, len(calls(Path("model")))) == (3, 3)
    found = table()
    assert list(found.slide) == [f"{home}/slides/{seed}.tif" for seed in range(3)]
    assert list(found.notes) == [f"same file as slides/{seed}.tif" for seed in range(3)]
    assert list(found.prob_tumour) == list(first.prob_tumour)
    predict("slides")
    assert table().equals(first)
    os.utime("slides/1.tif", ns=(1, 1))
    assert predict(home / "slides").progress.known == 2, "a slide that changed is predicted again"
    assert len(table()) == 3


def test_two_drivers_that_write_paths_differently_leave_one_row_a_file(home: Path) -> None:
    make_slide(Path("slides/0.tif"), 0)
    predict("slides")
    (done,) = Path("out/slides").iterdir()
    done.rename("away")
    predict(home / "slides")  # saw nothing of the other one, which ends now
    Path("away").rename(done)
    predict(home / "slides")
    assert list(table().slide) == [f"{home}/slides/0.tif"]


def test_other_settings_and_scales_are_no_twins_of_earlier_results(home: Path) -> None:
    predict("a.tif")
    predict(home / "a.tif", settings=PredictSettings(tiles=6, heatmap=False))
    assert len(calls(Path("model"))) == 2
    predict(manifest(f"slide,mpp\n{home}/a.tif,0.3\n"))
    assert len(calls(Path("model"))) == 3


def test_one_id_for_two_files_is_an_error(home: Path) -> None:
    for folder in ("one", "two"):
        make_slide(Path(folder, "a.tif"), len(folder))
        Path(folder, "m.csv").write_text("slide\na.tif\n")
    with pytest.raises(
        ConfigError, match=r"one/m\.csv, row 1 and two/m\.csv, row 1 both name 'a\.tif' and mean diff"
    ):
        find_slides(["one/m.csv", "two/m.csv"])


def test_the_key_of_a_file_follows_the_file(home: Path) -> None:
    keys = {
        file_key(name) for name in ("a.tif", "link.tif", "hard.tif", "folder/a.tif", f"file://{home}/a.tif")
    }
    assert len(keys) == 1
    assert len({*keys, file_key("other.tif"), file_key("copy.tif"), file_key("https://host/a.tif")}) == 4
