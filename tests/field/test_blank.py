"""A blank argument, as a variable of the shell that is not set leaves it, is no path and no value: nothing is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import run

BLANK = ("", "   ")
TOLD = {
    "predict": ("MODEL", "SLIDES", "--out", "--slides-dir", "--scheduler", "--patient", "--device"),
    "train": ("MANIFEST", "--out", "--config", "--slides-dir", "--target", "--group", "--set"),
    "heatmap": ("MODEL", "SLIDE", "--out", "--task"),
    "calibrate": ("MODEL", "MANIFEST", "--out", "--slides-dir", "--target"),
    "convert": ("SLIDE", "OUT"),
    "info": ("SLIDE|MODEL",),
    "config": ("--config", "--out"),
    "demo": ("--out",),
}
"""Arguments by command that are left blank, one at a time."""
GIVEN = {
    "predict": {"MODEL": "run/model", "SLIDES": "slides/test_0.tif", "--out": "out"},
    "train": {"MANIFEST": "slides/manifest.csv", "--out": "out"},
    "heatmap": {"MODEL": "run/model", "SLIDE": "slides/test_0.tif"},
    "calibrate": {"MODEL": "run/model", "MANIFEST": "slides/manifest.csv", "--out": "out"},
    "convert": {"SLIDE": "slides/test_0.tif", "OUT": "out"},
    "info": {"SLIDE|MODEL": "slides/test_0.tif"},
    "config": {},
    "demo": {},
}
"""What each command needs."""


@pytest.mark.parametrize("blank", BLANK, ids=["empty", "blanks"])
@pytest.mark.parametrize(("command", "name"), [(c, name) for c, names in TOLD.items() for name in names])
def test_a_blank_argument_is_told_by_its_name(place: Path, command: str, name: str, blank: str) -> None:
    before = sorted(place.iterdir())
    words = [
        word
        for option, value in {**GIVEN[command], name: blank}.items()
        for word in ([option, value] if option.startswith("--") else [value])
    ]
    said = run(command, *words, status=2).stderr.splitlines()
    assert said == [
        f"error: {name} is {blank!r}; it must not be blank",
        "  Remedy: give a value (of a path, . is the current folder); a variable of the shell that is not set leaves a "
        "blank",
    ]
    assert sorted(place.iterdir()) == before


def test_one_blank_of_several_is_told(place: Path) -> None:
    words = ("predict", "run/model", "slides/test_0.tif", "", "--out", "out", "--workers", "0")
    assert "error: SLIDES is ''; it must not be blank" in run(*words, status=2).stderr
    assert "error: --set is ' '" in run("config", "--set", "tile.px=64", "--set", " ", status=2).stderr


def test_with_an_equals_sign_too(place: Path) -> None:
    assert "error: --out is ''; it must not be blank" in run("config", "--out=", status=2).stderr


@pytest.mark.parametrize(
    "words",
    [
        ("slides/manifest.csv", "--out", "out", "--set", "train.epochs=1", "tile.px=64"),
        ("--out", "out", "--set", "train.epochs=1", "tile.px=64", "slides/manifest.csv"),
    ],
    ids=["last", "before the manifest"],
)
def test_a_setting_without_a_set_of_its_own_is_told(place: Path, words: tuple[str, ...]) -> None:
    assert run("train", *words, status=2).stderr.splitlines() == [
        "error: tile.px=64 stands by itself: --set takes one setting",
        "  Remedy: give each one a --set of its own: --set tile.px=64",
    ]
    assert not (place / "out").exists()
