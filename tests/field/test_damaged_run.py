"""A run's folder in which something is damaged, of another run or gone is told before anything is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.support.cohort import settings
from tests.support.training import assert_same_weights, silent
from wsi_ats.errors import ConfigError, WsiAtsError
from wsi_ats.manifest import Row
from wsi_ats.output import OutputError
from wsi_ats.train import folder
from wsi_ats.train.run import train


@pytest.fixture
def unfinished(trained: Path, tmp_path: Path) -> Path:
    """A run that was killed after its last epoch."""
    out = Path(shutil.copytree(trained, tmp_path / "run"))
    (out / "run.json").unlink()
    shutil.rmtree(out / "model")
    return out


def other_network(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["state_dict"].popitem()
    torch.save(state, path)


def other_shape(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    name, value = next(iter(state["state_dict"].items()))
    state["state_dict"][name] = value[..., :1]
    torch.save(state, path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello world\n"),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "numbers": lambda path: torch.save({"a": 1}, path),
    "tensor": lambda path: torch.save(torch.zeros(2), path),
    "other network": other_network,
    "other shape": other_shape,
    "folder": folder_instead,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_damaged_checkpoint(rows: list[Row], unfinished: Path, name: str, damage: str) -> None:
    DAMAGES[damage](unfinished / "checkpoints" / name)
    with pytest.raises(WsiAtsError, match=f"{name} (cannot be read|is no checkpoint)") as caught:
        train(rows, settings(), unfinished, say=silent)
    assert "\n" not in caught.value.message
    assert "weights_only" not in caught.value.message, "how to run code that is in a file is no advice"
    assert "--overwrite" in caught.value.remedy


def test_the_best_epoch_is_looked_for_before_the_others_are_trained(rows: list[Row], tmp_path: Path) -> None:
    said: list[str] = []

    def stop(line: str) -> None:
        said.append(line)
        if line.startswith("epoch 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(rows, settings(), tmp_path, say=stop)
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(WsiAtsError, match=r"best\.ckpt cannot be read: No such file"):
        train(rows, settings(), tmp_path, say=said.append)
    assert [line[:7] for line in said if line.startswith("epoch")] == ["epoch 1"]


@pytest.mark.parametrize("damage", ["half", "text", "zeros", "folder"])
@pytest.mark.parametrize("name", ["config.toml", "slides.csv", "failures.csv"])
def test_a_damaged_table(rows: list[Row], unfinished: Path, name: str, damage: str) -> None:
    DAMAGES[damage](unfinished / name)
    with pytest.raises(WsiAtsError, match=f"{name}|other slides") as caught:
        train(rows, settings(), unfinished, say=silent)
    assert "--overwrite" in caught.value.remedy or "move what lies there" in caught.value.remedy
    folder.remove_run(unfinished)
    assert list(unfinished.iterdir()) == []


def test_checkpoints_without_settings_are_not_taken_for_those_of_others(
    rows: list[Row], unfinished: Path
) -> None:
    (unfinished / "config.toml").unlink()
    with pytest.raises(WsiAtsError, match=r"settings are lost, with config\.toml"):
        train(rows, settings("train.lr=0.5"), unfinished, say=silent)


@pytest.mark.parametrize("removals", range(len(folder.OWN) + 1))
def test_a_removal_cut_short_leaves_nothing_that_a_run_with_other_settings_goes_on_from(
    rows: list[Row], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removals: int
) -> None:
    """Killed after any number of names: the next run is refused, or finds no checkpoint."""
    out, other = Path(shutil.copytree(trained, tmp_path / "run")), settings("train.lr=0.5")
    left = iter(range(removals))

    def cut(remove: Callable[..., None]) -> Callable[..., None]:
        def removing(*arguments: object, **options: object) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            remove(*arguments, **options)

        return removing

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", cut(Path.unlink))
        patch.setattr(shutil, "rmtree", cut(shutil.rmtree))
        with suppress(KeyboardInterrupt):
            folder.remove_run(out)
    with suppress(ConfigError):
        folder.prepare_run(out, rows, other, overwrite=False)
        assert not (out / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("mounted", [False, True])
def test_a_folder_that_vanishes_stops_training_and_is_not_made_anew(
    rows: list[Row], trained: Path, tmp_path: Path, mounted: bool
) -> None:
    """With its disk gone, an empty mount point may be left in its place."""
    out = tmp_path / "run"

    def vanish(line: str) -> None:
        if line.startswith("epoch 1"):
            out.rename(tmp_path / "elsewhere")
            if mounted:
                out.mkdir()

    with pytest.raises(OutputError, match=r"run.* cannot be written: No such file"):
        train(rows, settings(), out, say=vanish)
    assert list(out.glob("*")) == []
    if mounted:
        out.rmdir()
    assert not out.exists()
    (tmp_path / "elsewhere").rename(out)
    train(rows, settings(), out, say=silent)
    assert_same_weights(out / "model/model.safetensors", trained / "model/model.safetensors")
