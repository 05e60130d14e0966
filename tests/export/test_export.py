"""Exported programs answer as the model does, or there is no export."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.commands import run
from tests.support.encoders import save_vision_model
from tests.support.fake_model import make_slide
from wsi_ats import load_model, open_slide
from wsi_ats.atomic import AGE_LIMIT
from wsi_ats.build import build_model
from wsi_ats.catalogue import TASK_KINDS
from wsi_ats.config import load_config
from wsi_ats.ensemble import Ensemble
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.export import agreement, formats
from wsi_ats.export.agreement import MOST, largest_difference
from wsi_ats.export.formats import check_extra, run_program, write_program
from wsi_ats.export.programs import AttentionProgram, FeatureProgram, Program, programs_of
from wsi_ats.export.run import export_model
from wsi_ats.lowres.prepare import prepare
from wsi_ats.model import AttentionSampler
from wsi_ats.predict import predict_prepared
from wsi_ats.reading import Reading
from wsi_ats.tasks.answer import TaskSpec
from wsi_ats.tasks.calibration import Calibration
from wsi_ats.tasks.make import task_of
from wsi_ats.tasks.settings import TaskSettings

KINDS = {
    "classes": ("benign", "border", "tumour"),
    "labels": ("invasion", "necrosis"),
    "ordinal": ("1", "2", "4"),
    "regression": (),
    "survival": (),
}


def a_model(*settings: str) -> AttentionSampler:
    """A model of every kind of task, whose every part counts."""
    event = {"survival": "died"}
    tasks = [
        task_of(TaskSpec(f"{kind} of it", kind, names), TaskSettings(kind=kind, event=event.get(kind, "")))
        for kind, names in KINDS.items()
    ]
    learned = task_of(TaskSpec("age", "regression"), mean=60.0, deviation=12.0)
    model = build_model(load_config(None, ["tile.px=32", "features.width=4", *settings]), [*tasks, learned])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
        model.standardise.mean.add_(0.1)
    tasks[0].calibration = Calibration((1.5, 1.0, 0.5), (0.0, -2.0, 1.0), 40, "slides")
    learned.calibration = Calibration((2.0,), (-1.0,), 40, "slides")
    return model.eval()


def difference(program: Program, form: str, folder: Path) -> float:
    """Between the program's file and itself, on inputs of several sizes."""
    path = write_program(program, folder, [form])[form]
    examples = agreement.random_examples(program)[agreement.RANDOM]
    return largest_difference(program, run_program(path, list(program.inputs)), examples)


@pytest.mark.parametrize(
    "settings",
    [
        ["attention.network=wide", "attention.stride=5"],
        ["attention.network=deep", "attention.stride=4"],
        ["attention.network=paper", "attention.stride=1"],
    ],
    ids=str,
)
def test_attention_programs_see_what_the_network_sees(settings: list[str], tmp_path: Path) -> None:
    model = a_model(*settings)
    program = AttentionProgram(model)
    view = program.example(3, torch.Generator().manual_seed(1))
    assert torch.equal(program(*view)[0], model.attention(*view))
    assert difference(program, "torch", tmp_path) <= MOST
    assert difference(program, "onnx", tmp_path) <= MOST


def test_a_block_with_its_halo_has_the_logits_of_the_view() -> None:
    model = a_model("attention.network=deep", "attention.stride=4")
    program, stride = AttentionProgram(model), 4
    view = torch.rand(1, 3, 12 * stride, 14 * stride, generator=torch.Generator().manual_seed(2))
    halo = -(-max(model.attention.halo) // stride)
    (whole,), (part,) = program(view), program(view[..., 2 * stride : 11 * stride, 3 * stride : 12 * stride])
    inside = slice(halo, -halo)
    torch.testing.assert_close(part[:, inside, inside], whole[:, 2:11, 3:12][:, inside, inside])


@pytest.mark.parametrize(
    "settings", [[], ["sampling.prior=0.3"], ["sampling.refined=false", "sampling.sampler=gumbel"]], ids=str
)
def test_the_answer_of_drawn_tiles_is_the_models(settings: list[str], tmp_path: Path, cohort: Path) -> None:
    model = a_model("view.downsample=16", "tile.downsample=2", "attention.stride=4", *settings)
    answer_program = programs_of(model)[-1]
    with open_slide(cohort.parent / "test_0.tif") as slide, torch.no_grad():
        prepared = prepare(slide, model.config, keep_open=True)
        attention = model.attend(prepared)
        drawn = attention.draw(12, "systematic", torch.Generator().manual_seed(0))
        (features,) = model.embed([drawn])
        summary = model.estimate(drawn, features)
        expected = model.head(summary.phi)
        shares, outputs, *_ = answer_program(
            features, drawn.log_p[drawn.draws.cells], drawn.draws.log_weights.float()
        )
        torch.testing.assert_close(shares, summary.shares.float())
        torch.testing.assert_close(outputs, expected)
        exact = predict_prepared(model, prepared, Reading.of(sampler="all"))
        every = attention.all()
        answers = answer_program(model.embed([every])[0], every.log_p, torch.zeros(len(every.draws)))
        values = answers[2:]
    assert len(values) == len(exact.results) == len(KINDS) + 1
    for mine, result in zip(values, exact.results, strict=True):
        np.testing.assert_allclose(mine.numpy(), result.values, rtol=1e-4, atol=1e-5)
    if not settings:
        assert difference(answer_program, "onnx", tmp_path) <= MOST
    assert difference(answer_program, "torch", tmp_path) <= MOST


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_an_ensemble_is_exported_whole(frozen: str, tmp_path: Path, cohort: Path) -> None:
    scale = (
        "view.downsample=16",
        "tile.downsample=2",
        "attention.stride=4",
        "tile.px=32",
        "features.width=4",
    )
    config = load_config(None, [*scale, "train.members=3", f"features.frozen={frozen}"])
    model = build_model(config, ["benign", "tumour"]).eval()
    assert isinstance(model, Ensemble)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    model.tasks[0].calibration = Calibration((1.5, 1.0), (0.0, -2.0), 40, "slides")
    with open_slide(cohort.parent / "test_0.tif") as slide, torch.no_grad():
        made = export_model(model, tmp_path / "out", slide=slide, say=lambda line: None)
        assert all(len(tried) == 2 for tried in made.differences.values())
        prepared = prepare(slide, config, keep_open=True)
        every = model.attend(prepared).all()
        assert every.log_each is not None
        exact = predict_prepared(model, prepared, Reading.of(sampler="all")).main
        answer = programs_of(model)[-1]
        run = run_program(tmp_path / "out" / "answer.onnx", list(answer.inputs))
        none = torch.zeros(len(every.draws))
        shares, outputs, values = run((model.embed([every])[0], every.log_each.T.contiguous(), none))
    assert shares.shape == (len(every.draws), 3)
    np.testing.assert_allclose(outputs, exact.outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values, exact.values, rtol=1e-4, atol=1e-5)
    recipe = json.loads((tmp_path / "out" / "export.json").read_text())
    assert recipe["members"] == 3
    assert "(N, members)" in recipe["programs"]["answer"]["inputs"]["log_attention"]


class Pooled(nn.Module):
    """An encoder that somebody made a program of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 16, 7, 7)

    def forward(self, tiles: Tensor) -> Tensor:
        return self.layer(tiles).amax((2, 3))


def encoder_settings(kind: str, folder: Path) -> list[str]:
    if kind == "mobilenet":
        return ["features.network=mobilenet-v1"]
    if kind == "resized":
        return [*encoder_settings("dinov2", folder), "features.any_scale=true", "tile.px=40"]
    if kind == "exported":
        torch.manual_seed(0)
        program = torch.export.export(
            Pooled(), (torch.zeros(2, 3, 28, 28),), dynamic_shapes=({0: torch.export.Dim("n")},)
        )
        torch.export.save(program, folder / "program.pt2")
        how = ["network=exported", f"weights={folder / 'program.pt2'}", "input_px=28", "trust=true"]
        how += ["mean=[0.5, 0.5, 0.5]", "std=[0.2, 0.2, 0.2]"]
        return ["tile.px=28", *(f"features.{setting}" for setting in how)]
    save_vision_model(folder / "encoder", kind)
    how = ["network=huggingface", f"weights={folder / 'encoder'}", "pooling=cls+mean"]
    return ["tile.px=28", *(f"features.{setting}" for setting in how)]


@pytest.mark.parametrize("kind", ["small-resnet", "mobilenet", "vit", "dinov2", "resized", "exported"])
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_feature_programs_are_the_networks(kind: str, form: str, tmp_path: Path) -> None:
    settings = [] if kind == "small-resnet" else encoder_settings(kind, tmp_path)
    config = load_config(None, ["tile.px=32", *settings])
    pretrained = kind not in ("small-resnet", "mobilenet")
    model = build_model(config, ["a", "b"], pretrained=pretrained).eval()
    program = FeatureProgram(model).eval()
    (tiles,) = program.example(
        20, torch.Generator().manual_seed(1)
    )  # more than a frozen network takes at once
    with torch.no_grad():
        expected = model.standardise(model.features(tiles))
        torch.testing.assert_close(program(tiles)[0], expected)
    assert difference(program, form, tmp_path) <= MOST


# -- whole exports


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_command(place: Path) -> None:
    result = run("export", "run/model", "--out", "new/exported", "--check", "slides/test_0.tif")
    out = Path("new/exported")
    programs = [
        f"{name}.{suffix}" for name in ("answer", "attention", "features") for suffix in ("onnx", "pt2")
    ]
    assert written(out) == sorted([*programs, "export.json", "model-card.md"])
    assert (out / "model-card.md").read_text() == Path("run/model/model-card.md").read_text()
    recipe = json.loads((out / "export.json").read_text())
    assert recipe["model"] == load_model("run/model").hash
    assert recipe["files"].keys() == {*programs}
    for name, about in recipe["files"].items():
        assert f"{name} agrees with the model" in result.stdout
        assert about["differences"].keys() == {"random input", "test_0.tif"}
        assert max(about["differences"].values()) <= MOST
        assert str(Path.cwd().anchor + "work").encode() not in (out / name).read_bytes(), (
            "a path of this machine"
        )
    (task,) = recipe["tasks"]
    assert task["values"] == ["prob_normal", "prob_tumour"]

    again = run("export", "run/model", "--out", "new/exported", "--format", "torch", status=2)
    assert "--overwrite" in again.stderr
    run("export", "run/model", "--out", "new/exported", "--format", "torch", "--overwrite")
    assert not list(out.glob("*.onnx"))
    assert written(out.parent) == ["exported"]


def test_a_slide_that_cannot_be_tried_leaves_nothing(place: Path) -> None:
    make_slide(Path("blank.tif"), blank=True, size=(512, 512))
    arguments = ["export", "run/model", "--out", "out", "--format", "torch"]
    assert "no tissue" in run(*arguments, "--check", "blank.tif", status=2).stderr
    assert "gone.tif" in run(*arguments, "--check", "gone.tif", status=2).stderr
    assert written(place) == ["blank.tif", "run", "slides"]


@pytest.mark.parametrize("wrong", [2 * MOST, np.nan, np.inf])
def test_a_file_that_disagrees_is_refused_and_what_was_there_stays(
    wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = a_model(), tmp_path / "out"
    export_model(model, out, ["torch"], say=lambda line: None)
    before = (out / "export.json").read_bytes()

    def faulty(path: Path, inputs: Sequence[str]) -> formats.Run:
        right = run_program(path, inputs)

        def run_wrong(given: Sequence[Tensor]) -> list[np.ndarray]:
            outputs = [output.copy() for output in right(given)]
            if path.stem == "answer":
                outputs[0].flat[-1] += wrong
            return outputs

        return run_wrong

    monkeypatch.setattr(agreement, "run_program", faulty)
    with pytest.raises(ModelError, match=r"answer\.pt2 does not agree with the model: on random input"):
        export_model(model, out, ["torch"], overwrite=True, say=lambda line: None)
    assert (out / "export.json").read_bytes() == before
    assert written(tmp_path) == ["out"]


def test_the_recipe_says_how_outputs_become_answers(tmp_path: Path) -> None:
    values = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]] * 5)
    truth = np.array([[0.0], [0.0], [1.0], [1.0]] * 5)
    task = task_of(TaskSpec("label", "classes", ("benign", "tumour")))
    task.decide(values, truth, "20 slides")
    task.calibration = Calibration((1.0, 1.0), (0.0, -2.0), 20, "20 slides")
    model = build_model(load_config(None, ["tile.px=32", "view.normalise=true", "train.by=patient"]), [task])
    export_model(model, tmp_path / "out", ["torch"], say=lambda line: None)
    recipe = json.loads((tmp_path / "out" / "export.json").read_text())
    (told,) = recipe["tasks"]
    assert task.spec.point is not None
    assert task.spec.sets is not None
    assert told["point"]["threshold"] == task.spec.point.threshold
    assert told["sets"]["quantiles"] == [*task.spec.sets.quantiles]
    assert told["calibration"]["intercepts"] == [0.0, -2.0]
    assert told["says"] == "the positive one from the threshold on", "as wsi-ats itself calls a slide"
    below = task.spec.point.threshold - 1e-6
    assert task.spec.text(np.array([1 - below, below])) == "benign"
    kinds = {entry.says for entry in TASK_KINDS.values()}
    for says in (told["says"], *kinds):
        assert f" {says}:" in recipe["steps"]["decide"].replace(". T", ". t").replace(". A", ". a"), says
    assert recipe["answers_about"] == "patient"
    assert recipe["view"]["normalise"].keys() == {"centre", "spread", "least_spread"}
    assert recipe["programs"]["answer"]["outputs"].keys() == {"shares", "outputs", "values_0"}


def test_nothing_but_an_export_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds no export\.json"):
        export_model(a_model(), tmp_path, ["torch"], overwrite=True)
    assert written(tmp_path) == ["notes.txt"]


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left, others = tmp_path / ".out.1f.part", tmp_path / ".outer.1f.part"
    for folder in (left, others):
        folder.mkdir()
        (folder / "features.pt2").touch()
        then = time.time() - AGE_LIMIT - 5
        os.utime(folder, (then, then))
    export_model(a_model(), tmp_path / "out", ["torch"], say=lambda line: None)
    assert written(tmp_path) == [".outer.1f.part", "out"]


def test_two_levels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"attention\.levels is 2"):
        export_model(a_model("attention.levels=2"), tmp_path / "out", ["torch"])
    assert written(tmp_path) == []


def test_a_network_that_cannot_be_translated_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, tiles: Tensor) -> Tensor:
            return tiles.flatten(1)[:, : int(tiles.sum())]

    model = a_model()
    model.features = Odd()
    with pytest.raises(ModelError, match="features of this model cannot be written as torch"):
        export_model(model, tmp_path / "out", ["torch"], say=lambda line: None)
    assert written(tmp_path) == []


def test_without_the_extra_onnx_is_refused_and_torch_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(ConfigError, match=r"onnxruntime is not installed") as error:
        check_extra(["onnx", "torch"])
    assert "wsi-ats[export]" in error.value.remedy
    check_extra(["torch"])


def test_wrong_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"formats are \['tflite'\]"):
        export_model(a_model(), tmp_path / "out", ["tflite"])
