"""A start that fails leaves nothing in the way: what is wrong is told before slides are opened; the folder is free."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.support.cohort import settings
from tests.support.commands import TRAINING, run
from tests.support.training import silent
from wsi_ats.config import Config
from wsi_ats.errors import ConfigError, WsiAtsError
from wsi_ats.manifest import Row
from wsi_ats.train import folds
from wsi_ats.train import run as training
from wsi_ats.train.card import Trained
from wsi_ats.train.run import train

ONE = settings("train.epochs=1")


@pytest.mark.parametrize("wrong", ["val", "class", "network", "label", "few"])
def test_what_is_wrong_is_told_before_slides_are_opened(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a slide was opened")

    monkeypatch.setattr(training, "_inspect", opened)
    config, mine = ONE, list(rows)
    if wrong == "val":
        mine = [replace(row, split="train") for row in rows]
    elif wrong == "class":
        mine = [row for row in rows if (row.split, row.label) != ("val", "tumour")]
    elif wrong == "label":
        mine[0] = replace(rows[0], label="Normal ")
    elif wrong == "few":
        mine = [replace(row, split=None, label=row.label if i else "rare") for i, row in enumerate(rows)]
    else:
        config = settings("features.network=exported", "features.weights=gone.pt2")
    with pytest.raises(WsiAtsError) as caught:
        train(mine, config, tmp_path / "run", say=silent)
    assert caught.value.remedy
    assert "failures.csv" not in caught.value.remedy
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--folds", "2"), "--folds is '2'; it must be a whole number from 3 to 100, or each"),
        (("--folds", "3", "--splits", "s.csv"), "--splits is s.csv and --folds is 3"),
        (("--fold", "1"), "--fold is 1, and no file of splits is given"),
        (("--set", "tile.px=1"), "tile.px = 1"),
        (("--folds", "9", "--set", "train.epochs=1"), "too few for 9 folds"),
    ],
)
def test_a_wrong_call_is_told_before_libraries_are_imported(
    tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    """In a process of its own: what takes seconds to import is not needed to say so."""
    (tmp_path / "m.csv").write_text("slide,label\n" + "".join(f"{i}.svs,{i % 2}\n" for i in range(8)))
    call = ["train", "m.csv", "--out", "out", *words]
    code = (
        f"import sys; sys.argv[1:] = {call}\nfrom wsi_ats.cli.main import main\ntry:\n    main()\n"
        "finally:\n    assert 'pytorch_lightning' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert complaint in done.stderr
    assert done.returncode == 2, done.stderr


def test_what_a_later_fold_lacks_is_told_before_the_first_is_trained(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("a fold was trained")

    monkeypatch.setattr(folds, "train", begun)
    lacking = [row for row in rows if (row.split, row.label) != ("val", "tumour")]
    with pytest.raises(ConfigError, match="the val split has no"):
        folds.cross_validate([rows, lacking], ONE, tmp_path / "out", say=silent)
    assert not (tmp_path / "out").exists()


def start(rows: list[Row], out: Path, config: Config) -> None:
    """A run that looks at its slides, finds that they are not enough, and leaves what such runs leave."""
    gone = [replace(row, path=Path("gone.tif")) if row.split == "val" else row for row in rows]
    with pytest.raises(ConfigError, match=r"no usable .* slides failed") as caught:
        train(gone, config, out, say=silent)
    assert str(out / "failures.csv") in caught.value.remedy
    assert len(pd.read_csv(out / "failures.csv")) == 4


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that ends before it opens a slide."""
    monkeypatch.setattr(training, "_train", lambda *_: Trained(Path(), {}, 0, 0.0, [], {}))


def test_the_folder_of_a_failed_start_is_free(
    rows: list[Row], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "run"
    start(rows, out, settings("train.seed=5"))
    (out / "notes.txt").write_text("mine")
    request.getfixturevalue("untrained")
    train(rows, ONE, out, say=silent)
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
        "cohort.csv",
        "config.toml",
        "notes.txt",
        "slides.csv",
    ]
    assert "epochs = 1" in (out / "config.toml").read_text()


@pytest.mark.parametrize("kept", ["checkpoints/last.ckpt", "log.csv", "run.json", "model/config.toml"])
def test_what_was_trained_is_not_given_up(
    rows: list[Row], tmp_path: Path, untrained: None, kept: str
) -> None:
    train(rows, settings(), tmp_path, say=silent)
    (tmp_path / kept).parent.mkdir(exist_ok=True)
    (tmp_path / kept).write_text("kept")
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        train(rows, ONE, tmp_path, say=silent)
    with pytest.raises(ConfigError, match="holds a run on other slides"):
        train(rows[:-1], settings(), tmp_path, say=silent)
    assert (tmp_path / kept).read_text() == "kept"


def test_settings_that_no_run_wrote_are_not_overwritten(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("# mine\n[train]\nepochs = 1\n")
    with pytest.raises(ConfigError, match=r"config\.toml is of no run"):
        train(rows, ONE, tmp_path, say=silent)
    assert (tmp_path / "config.toml").read_text().startswith("# mine")


def test_a_folder_that_another_process_trains_in_is_refused(
    rows: list[Row], tmp_path: Path, untrained: None
) -> None:
    pytest.importorskip("fcntl", reason="folders cannot be locked on this system")
    code = (
        "import sys; from pathlib import Path; from wsi_ats.train.folder import alone_in\n"
        f"with alone_in(Path({str(tmp_path)!r})): print('in', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(ConfigError, match="another process is training in"):
            train(rows, ONE, tmp_path, say=silent)
        other.kill()
    assert list(tmp_path.iterdir()) == []
    train(rows, ONE, tmp_path, say=silent)


def test_the_same_command_with_other_settings_after_a_failed_start(place: Path) -> None:
    lines = Path("slides/manifest.csv").read_text().replace("\n", "\nslides/").removesuffix("slides/")
    Path("m.csv").write_text(lines.replace("slides/val_", "slides/gone_"))
    command = ("train", "m.csv", "--out", "new", *TRAINING)
    assert "see new/failures.csv" in run(*command, status=2).stderr
    Path("m.csv").write_text(lines)
    assert "epoch 1/1" in run(*command, "--set", "train.epochs=1").stdout
