"""Training in two processes that torchrun starts: what comes out is what one process makes of twice the batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cohort import SETTINGS, settings
from tests.support.commands import options, run
from tests.support.graded import write_graded
from tests.support.together import Plan, said_by, start_two, train_all
from tests.support.training import assert_same_weights, silent, table, weights
from tests.tasks.test_runs import SETTINGS as TASKS
from tests.train.test_train import with_damaged_tiles
from wsi_ats.build import build_model
from wsi_ats.cli import terminal
from wsi_ats.errors import ConfigError, SlideError, WsiAtsError
from wsi_ats.features.standardise import Standardise
from wsi_ats.manifest import read_manifest
from wsi_ats.tasks.make import as_tasks
from wsi_ats.train.data import Batches, Shuffled
from wsi_ats.train.module import TrainingModule
from wsi_ats.train.processes import Processes, here
from wsi_ats.train.run import train

MODEL = "model/model.safetensors"
LEARNED = ("train.epochs=3", "augment.place=0.5", "augment.stain=0.1")


def listed(folder: Path, cohort: Path, slides: Sequence[tuple[Path, str, str, str]]) -> Path:
    """A manifest of (slide, label, patient, split)."""
    folder.mkdir()
    manifest = folder / "manifest.csv"
    lines = (f"{cohort.parent / path},{label},{patient},{split}\n" for path, label, patient, split in slides)
    manifest.write_text("slide,label,patient,split\n" + "".join(lines))
    return manifest


def slides_of(train: int, patients: str = "012345") -> list[tuple[Path, str, str, str]]:
    """The slides of the cohort, so many to train on, which are of these patients."""
    names = [(f"train_{i}.tif", f"p{patients[i]}") for i in range(train)] + [
        (f"val_{i}.tif", f"v{i}") for i in range(4)
    ]
    return [
        (Path(name), ("normal", "tumour")[int(name[-5]) % 2], patient, name.split("_")[0])
        for name, patient in names
    ]


CASES = {
    "learned": LEARNED,
    "fixed": (
        "features.frozen=true",
        "train.read_ahead=true",
        "train.balanced=true",
        "train.accumulate=2",
        "train.members=2",
        "train.epochs=2",
        "train.warm_up=1",
    ),
    "two levels, by patient": (
        "attention.levels=2",
        "regions.side=4",
        "regions.shrink=2",
        "regions.tiles=3",
        "train.epochs=2",
        "train.by=patient",
        "train.batch=1",
        "train.shift=0.5",
        "train.entropy=0.1",
    ),
}
"""Five slides in steps of four, so that one process has none in the last; six; five patients in steps of two."""
SLIDES = {
    "learned": [*slides_of(5), (Path("test_0.tif"), "normal", "v4", "val")],
    "fixed": slides_of(6),
    "two levels, by patient": slides_of(6, "010345"),
}


@dataclass(frozen=True)
class Together:
    """What two processes made in one go: a run of each case, of all tasks, and of the first case with a slide that
    breaks in the middle; the first one is then asked for again."""

    folder: Path
    said: list[str]


@pytest.fixture(scope="module")
def together(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("processes")
    plans: list[Plan] = []
    for case, more in CASES.items():
        manifest = listed(folder / case, cohort, SLIDES[case])
        plans.append((str(manifest), str(folder / case / "run"), None, [*SETTINGS, *more]))
    write_graded(folder / "tasks", train=13, val=12, test=0)
    (folder / "tasks.toml").write_text(TASKS.replace("epochs = 14", "epochs = 2"))
    tasks = folder / "tasks"
    plans.append((str(tasks / "manifest.csv"), str(tasks / "run"), str(folder / "tasks.toml"), []))
    bad = listed(
        folder / "broken", cohort, [*SLIDES["learned"], (folder / "broken.tif", "tumour", "p9", "train")]
    )
    with_damaged_tiles(cohort.parent / "train_5.tif", folder / "broken.tif")
    plans += [(str(bad), str(folder / "broken" / "run"), None, plans[0][3]), plans[0]]
    return Together(folder, train_all(plans).splitlines())


def assert_alike(one: Path, other: Path) -> None:
    """The same figures of every epoch, and the same weights, but for rounding: of what hardly has a gradient, the
    first steps of Adam are chance."""
    figures = [
        [[float(cell) for name, cell in row.items() if name != "seconds"] for row in table(out / "log.csv")]
        for out in (one, other)
    ]
    np.testing.assert_allclose(*figures, rtol=1e-4, atol=1e-4)
    mine, theirs = weights(one / MODEL), weights(other / MODEL)
    assert mine.keys() == theirs.keys()
    apart = torch.cat([(mine[name] - theirs[name]).abs().flatten() for name in mine])
    assert apart.quantile(0.99) < 1e-4
    assert apart.max() < 1e-2


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one_with_twice_the_batch(case: str, together: Together) -> None:
    folder, more = together.folder / case, CASES[case]
    config = settings(*more, f"train.batch={2 * settings(*more).train.batch}")
    train(read_manifest(folder / "manifest.csv"), config, folder / "one", say=silent)
    assert_alike(folder / "run", folder / "one")


def test_so_they_are_where_tasks_compare_the_slides_of_a_batch(together: Together) -> None:
    """The loss is that of the slides of both processes together."""
    folder, config = together.folder / "tasks", together.folder / "tasks.toml"
    where = ("--out", folder / "one", "--config", config)
    run("train", folder / "manifest.csv", *where, "--set", "train.batch=8", "--no-report")
    assert_alike(folder / "run", folder / "one")


def test_a_slide_that_breaks_in_the_middle_is_left_out_by_all(together: Together) -> None:
    """As if it had never been there."""
    folder = together.folder
    (failure,) = table(folder / "broken" / "run" / "failures.csv")
    assert (Path(failure["slide"]).name, failure["stage"]) == ("broken.tif", "tiles")
    assert sum(line.startswith("left out ") for line in together.said) == 1
    assert_same_weights(folder / "broken" / "run" / MODEL, folder / "learned" / "run" / MODEL)


def test_all_return_what_came_out_and_one_speaks(together: Together) -> None:
    told = [json.loads(line) for line in together.said if line.startswith("{")]
    first, second = ([end for end in told if end["process"] == number] for number in (0, 1))
    assert [{**end, "process": 0} for end in second] == first
    assert [end.get("epochs") for end in first] == [3, 4, 2, 2, 3, None]
    assert [len(end.get("failures", ())) for end in first] == [0, 0, 0, 0, 1, 0]
    assert "holds a finished run" in first[-1]["error"]
    assert first[-1]["met_by"] == 0
    assert sum(line.startswith("epoch ") for line in together.said) == 3 + 4 + 2 + 2 + 3


def test_a_run_one_of_whose_processes_was_killed_goes_on(together: Together, tmp_path: Path) -> None:
    manifest, out = together.folder / "learned" / "manifest.csv", tmp_path / "run"
    command = ("wsi_ats", "train", manifest, "--out", out, "--no-report", *options(*SETTINGS, *LEARNED))
    process = start_two(*command)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("epoch 1/3"))
    children = psutil.Process(process.pid).children()
    next(child for child in children if child.environ().get("RANK") == "1").kill()
    said = said_by(process, 1)
    assert "error: another of the 2 processes of this training has ended" in said
    assert "the same command goes on after the last whole epoch" in said
    assert "Traceback" not in said.split("Sending process")[0], "torchrun has one of its own"
    # In another number of processes it would be another run.
    with pytest.raises(ConfigError, match=r"begun in 2 process\(es\) and is started in 1") as caught:
        train(read_manifest(manifest), settings(*LEARNED), out, say=silent)
    assert "--nproc-per-node" in caught.value.remedy
    said = said_by(start_two(*command))
    assert [line[:7] for line in said.splitlines() if line.startswith("epoch")] == ["epoch 2", "epoch 3"]
    assert said.count("model: ") == 1
    assert_same_weights(out / MODEL, together.folder / "learned" / "run" / MODEL)


@pytest.fixture
def of_torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    "command",
    [
        ("train", "slides/manifest.csv", "--out", "folds", "--folds", "2"),
        ("train", "slides/manifest.csv", "--out", "seeds", "--seeds", "2"),
        ("predict", "run/model", "slides/val_0.tif", "--out", "out"),
    ],
    ids=lambda command: command[-2],
)
def test_what_is_not_for_several_is_refused(
    command: tuple[str, ...], place: Path, of_torchrun: pytest.MonkeyPatch
) -> None:
    result = run(*command, status=2)
    assert "was started in 2 processes by torchrun" in result.output
    assert "without" in result.output
    assert sorted(path.name for path in place.iterdir()) == ["run", "slides"]
    of_torchrun.setenv("RANK", "1")
    assert run(*command, status=2).output == ""


def test_an_error_is_told_by_the_process_that_met_it(
    of_torchrun: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_torchrun.setenv("RANK", "1")
    mine, theirs, alone = (SlideError(f"slide {name!r}: broken") for name in ("a", "b", "c"))
    mine.met_by, theirs.met_by = 1, 0
    for error in (mine, theirs, alone):
        terminal.tell(error)
    assert capsys.readouterr().err.splitlines() == [
        "process 2 of 2: error: slide 'a': broken",
        "process 2 of 2: error: slide 'c': broken",
    ]


def test_a_process_that_fails_where_others_wait_for_a_sum_ends() -> None:
    """It cannot tell them; alone it goes on without the slide."""

    class Unreadable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *_: torch.Tensor) -> torch.Tensor:
            raise SlideError("slide 'a': broken", "copy it")

    for count, kind in ((1, SlideError), (2, WsiAtsError)):
        model = build_model(settings(), as_tasks(["normal", "tumour"]))
        module = TrainingModule(model, Processes(0, count))
        with pytest.raises(WsiAtsError, match="slide 'a': broken") as caught:
            module.backward(Unreadable.apply(torch.zeros((), requires_grad=True)))
        assert (type(caught.value), caught.value.remedy) == (kind, "copy it")
    assert Processes(0, 2).agreed(caught.value) is caught.value, "nobody is told"


@pytest.mark.parametrize("missing", ["TORCHELASTIC_RUN_ID", "WORLD_SIZE"])
def test_without_torchrun_there_is_one(of_torchrun: pytest.MonkeyPatch, missing: str) -> None:
    assert here() == Processes(0, 2, 0)
    of_torchrun.delenv(missing)
    assert here().count == 1


@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_batches_are_shared_out_whole_and_in_order(
    slides: int, batch: int, count: int, balanced: bool
) -> None:
    """Against the batches of one process; what is gathered from the shares is in their order."""
    chances = torch.ones(slides, dtype=torch.float64) if balanced and slides else None
    of_one = [*Batches(Shuffled(range(slides), 0, chances), batch * count)]
    every = [Processes(number, count) for number in range(count)]
    shares = [[*Batches(Shuffled(range(slides), 0, chances), batch, one)] for one in every]
    assert {len(Batches(Shuffled(range(slides), 0), batch, one)) for one in every} == {len(of_one)}
    assert {len(share) for share in shares} == {len(of_one)}
    for number, whole in enumerate(of_one):
        parts = [share[number] for share in shares]
        assert every[0].in_order(parts) == whole
        assert max(map(len, parts)) <= batch
    everyone = [[i for step in share for i in step] for share in shares]
    assert every[0].in_order(everyone) == [i for whole in of_one for i in whole]


def test_features_of_all_processes_are_standardised_together() -> None:
    """One process of several against one alone: here the others have no tile."""
    features = 3 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) + 1
    directions = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    found = []
    for summed in (None, torch.clone):
        standardise = Standardise(4, follow=True)
        standardise.summed = summed
        mine = features.clone().requires_grad_()
        out = standardise(mine)
        (out * directions).sum().backward()
        found.append((out.detach(), mine.grad, standardise.mean, standardise.var))
        one = standardise(features[:1])
        found[-1] += (one, standardise.eval()(features))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
