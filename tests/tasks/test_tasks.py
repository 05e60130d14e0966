"""Every kind of task against slow, obvious oracles: losses by loops, cells by hand, figures by all pairs."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_ats.catalogue import TASK_KINDS, code_of
from wsi_ats.config import load_config
from wsi_ats.errors import ConfigError, WsiAtsError
from wsi_ats.statistics.metrics import c_index, quadratic_kappa, r2
from wsi_ats.tasks.answer import COVERS, TaskResult, TaskSpec, columns_of, outputs_of
from wsi_ats.tasks.make import from_card, make_tasks, to_card
from wsi_ats.tasks.ordinal import Ordinal
from wsi_ats.tasks.settings import TaskSettings
from wsi_ats.tasks.spread import Spread
from wsi_ats.tasks.task import Task, Tasks

NAN = math.nan
GRADES = ("1", "2", "3", "5")


def task(kind: str, names: tuple[str, ...] = (), **more: object) -> Task:
    """A task called `t`."""
    asked = TaskSettings(kind=kind, **({"event": "died"} if kind == "survival" else {}), **more)
    return code_of(TASK_KINDS[kind].make)(TaskSpec("t", kind, names), asked)


def outputs(b: int, o: int, seed: int, scale: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(b, o, dtype=torch.float64, generator=generator)).requires_grad_()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---- Losses


def test_classes_by_hand() -> None:
    net, out = task("classes", ("a", "b", "c")), outputs(3, 3, 0)
    net.weights.copy_(torch.tensor([1.0, 2.0, 0.5]))
    losses = net.losses(out, torch.tensor([[1.0], [NAN], [2.0]]))
    p = np.exp(out.detach().numpy())
    p /= p.sum(1, keepdims=True)
    assert losses.tolist() == pytest.approx([-2 * math.log(p[0, 1]), 0, -0.5 * math.log(p[2, 2])])
    np.testing.assert_allclose(net.values(out).detach().numpy(), p)


def test_labels_by_hand() -> None:
    net, out = task("labels", ("a", "b")), outputs(3, 2, 1)
    net.weights.copy_(torch.tensor([[1.0, 0.5], [1.0, 3.0]]))
    truth = [[1.0, 0.0], [NAN, 1.0], [NAN, NAN]]
    weight = {(0, 0.0): 1.0, (0, 1.0): 1.0, (1, 0.0): 0.5, (1, 1.0): 3.0}
    by_hand = []
    for row, target in zip(out.tolist(), truth, strict=True):
        loss = 0.0
        for label, (o, t) in enumerate(zip(row, target, strict=True)):
            if not math.isnan(t):
                loss -= weight[label, t] * math.log(sigmoid(o) if t else 1 - sigmoid(o))
        by_hand.append(loss / 2)
    assert net.losses(out, torch.tensor(truth, dtype=torch.float64)).tolist() == pytest.approx(by_hand)


def test_regression_by_hand() -> None:
    net, out = task("regression"), outputs(3, 1, 2)
    net.fit(np.array([[10.0], [NAN], [14.0], [18.0]]))
    deviation = math.sqrt(32 / 3)
    assert net.learned == {"mean": 14.0, "deviation": pytest.approx(deviation)}
    losses = net.losses(out, torch.tensor([[12.0], [NAN], [14.0]], dtype=torch.float64))
    first, _, last = out[:, 0].tolist()
    assert losses.tolist() == pytest.approx([(first + 2 / deviation) ** 2, 0, last**2])
    assert net.values(out)[0].item() == pytest.approx(14 + deviation * first)


@given(seed=st.integers(0, 999), grades=st.integers(2, 6))
@settings(deadline=None, max_examples=25)
def test_ordinal_is_the_difference_of_cumulative_sigmoids(seed: int, grades: int) -> None:
    names = tuple(map(str, range(grades)))
    net, out = task("ordinal", names), outputs(4, 1, seed)
    rng = np.random.default_rng(seed)
    net.lowest.data = torch.tensor([rng.normal()])
    net.steps.data = torch.tensor(rng.normal(size=grades - 2))
    cuts = net.lowest.tolist()
    for step in net.steps.tolist():
        cuts.append(cuts[-1] + math.log1p(math.exp(step)))
    values = net.values(out).detach()
    truth = rng.integers(0, grades, 4)
    losses = net.losses(out, torch.tensor(truth[:, None], dtype=torch.float64))
    for row, score in enumerate(out[:, 0].tolist()):
        above = [1.0, *(sigmoid(score - cut) for cut in cuts), 0.0]
        p = [a - b for a, b in pairwise(above)]
        assert values[row].tolist() == pytest.approx([*p, sum(k * q for k, q in enumerate(p))], abs=1e-6)
        assert losses[row].item() == pytest.approx(-math.log(p[truth[row]]), rel=1e-5)


def test_ordinal_stays_finite_far_away_and_begins_at_the_frequencies() -> None:
    net = task("ordinal", GRADES)
    targets = np.repeat([0.0, 1.0, 2.0, 3.0, NAN], [8, 1, 2, 4, 3])[:, None]
    net.fit(targets)
    start = net.values(torch.zeros(1, 1, dtype=torch.float64))[0].tolist()
    mean_grade = (8 * 1 + 1 * 2 + 2 * 3 + 4 * 5) / 15
    assert start == pytest.approx([8 / 15, 1 / 15, 2 / 15, 4 / 15, mean_grade], abs=1e-6)
    far = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    losses = net.losses(far, torch.tensor([[0.0], [2.0]]))
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([300, 300], abs=10)
    assert far.grad is not None
    assert far.grad[:, 0].tolist() == pytest.approx([1, -1], abs=1e-3)


@given(
    seed=st.integers(0, 999),
    slides=st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, NAN]), st.booleans()), min_size=1, max_size=8),
)
@settings(deadline=None, max_examples=50)
def test_cox_by_loops(seed: int, slides: list[tuple[float, bool]]) -> None:
    net, out = task("survival"), outputs(len(slides), 1, seed)
    targets = torch.tensor([[t, NAN if math.isnan(t) else float(e)] for t, e in slides], dtype=torch.float64)
    losses = net.losses(out, targets)
    risk = [math.exp(o) for o in out[:, 0].tolist()]
    for i, (time, event) in enumerate(slides):
        by_hand = 0.0
        if event and not math.isnan(time):
            at_risk = sum(r for r, (other, _) in zip(risk, slides, strict=True) if other >= time)
            by_hand = -math.log(risk[i] / at_risk)
        assert losses[i].item() == pytest.approx(by_hand, abs=1e-9)
    losses.sum().backward()
    assert out.grad is not None
    assert out.grad.isfinite().all()
    assert out.grad.sum().item() == pytest.approx(0, abs=1e-9), "only differences of risks count"


def test_a_batch_of_several_tasks_sums_their_losses() -> None:
    tasks = Tasks(
        [task("classes", ("a", "b"), strength=0.5), task("survival"), task("regression", strength=3)]
    )
    out = outputs(5, 4, 3)
    targets = [
        np.array([[0.0], [1.0], [NAN], [1.0], [NAN]]),
        np.array([[1.0, 1.0], [NAN, NAN], [2.0, 0.0], [1.5, 1.0], [NAN, NAN]]),
        np.array([[1.0], [NAN], [NAN], [2.0], [NAN]]),
    ]
    losses = tasks.losses(out, targets)
    parts = [out[:, :2], out[:, 2:3], out[:, 3:]]
    for i in range(5):
        alone = [t.losses(o, torch.from_numpy(y))[i] for t, o, y in zip(tasks, parts, targets, strict=True)]
        assert losses[i].item() == pytest.approx((0.5 * alone[0] + alone[1] + 3 * alone[2]).item())
    assert losses[4].item() == 0.0


# ---- Weights of classes


def test_balanced_classes_weigh_the_same_and_weights_have_mean_one() -> None:
    labels = np.repeat([0.0, 1.0, 2.0, NAN], [6, 3, 1, 2])[:, None]
    for kind, asked, ratios in (
        ("classes", "none", (1, 1, 1)),
        ("classes", "balanced", (1 / 6, 1 / 3, 1)),
        ("ordinal", {"1": 2, "2": 1, "3": 8}, (2, 1, 8)),
    ):
        net = task(kind, ("1", "2", "3"), class_weights=asked)
        net.fit(labels)
        weights = net.weights.numpy()
        assert weights / weights[0] == pytest.approx(np.array(ratios) / ratios[0])
        assert weights[labels[~np.isnan(labels)].astype(int)].mean() == pytest.approx(1)


def test_sides_of_labels_weigh_as_asked() -> None:
    targets = np.array([[1, 0], [0, 0], [0, 1], [0, 0], [0, NAN]])
    net = task("labels", ("a", "b"), class_weights="balanced")
    net.fit(targets)
    np.testing.assert_allclose(net.weights.numpy(), [[5 / 8, 4 / 6], [5 / 2, 4 / 2]], rtol=1e-6)
    net = task("labels", ("a", "b"), class_weights={"a": 4, "b": 1})
    net.fit(targets)
    np.testing.assert_allclose(net.weights.numpy(), [[5 / 8, 1], [5 / 2, 1]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["classes", "labels", "ordinal"])
def test_weights_for_other_classes_are_refused(kind: str) -> None:
    targets = np.array([[0.0], [1.0]]) if kind != "labels" else np.eye(2)
    net = task(kind, ("1", "2"), class_weights={"1": 2.0, "9": 1.0})
    with pytest.raises(ConfigError, match=r"tasks\.t\.class_weights = .*'9'.* each of 1, 2"):
        net.fit(targets)


# ---- Figures of merit


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
@settings(deadline=None, max_examples=100)
def test_c_index_by_all_pairs(slides: list[tuple[int, int, bool]]) -> None:
    right, pairs = 0.0, 0
    for (risk, time, event), (other, later, other_event) in product(slides, slides):
        if event and (time < later or (time == later and not other_event)):
            pairs += 1
            right += 1.0 if risk > other else 0.5 if risk == other else 0.0
    risks, times, events = (np.array(column) for column in zip(*slides, strict=True))
    value = c_index(risks.astype(float), times.astype(float), events.astype(bool))
    assert value == pytest.approx(right / pairs) if pairs else math.isnan(value)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=15))
@settings(deadline=None, max_examples=100)
def test_kappa_by_the_tables(pairs: list[tuple[int, int]]) -> None:
    answers, truth = (np.array(column) for column in zip(*pairs, strict=True))
    seen, chance = np.zeros((5, 5)), np.zeros((5, 5))
    for a, t in pairs:
        seen[a, t] += 1 / len(pairs)
    for a, t in product(answers, truth):
        chance[a, t] += 1 / len(pairs) ** 2
    cost = (np.arange(5)[:, None] - np.arange(5)) ** 2
    value = quadratic_kappa(answers, truth)
    if (cost * chance).sum() > 0:
        assert value == pytest.approx(1 - (cost * seen).sum() / (cost * chance).sum())
    else:
        assert math.isnan(value)


def test_r2_of_the_mean_is_nothing_and_of_the_truth_is_all() -> None:
    truth = np.array([1.0, 4.0, 7.0])
    assert r2(truth, truth) == 1.0
    assert r2(np.full(3, 4.0), truth) == 0.0
    assert r2(np.array([1.0, 4.0, 4.0]), truth) == pytest.approx(1 - 9 / 18)
    assert math.isnan(r2(truth[:1], truth[:1]))


@pytest.mark.parametrize(
    ("kind", "names", "perfect", "truth"),
    [
        ("classes", ("a", "b"), [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], [[0], [1], [NAN]]),
        ("labels", ("a", "b"), [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], [[1, 0], [0, 1], [NAN, 0]]),
        ("ordinal", ("1", "2"), [[0.9, 0.1, 1.1], [0.2, 0.8, 1.8], [0.5, 0.5, 1.5]], [[0], [1], [NAN]]),
        ("regression", (), [[1.0], [3.0], [9.0]], [[1], [3], [NAN]]),
        ("survival", (), [[2.0], [1.0], [9.0]], [[1, 1], [2, 0], [NAN, NAN]]),
    ],
)
def test_figures_leave_out_what_is_not_known(
    kind: str, names: tuple[str, ...], perfect: list[list[float]], truth: list[list[float]]
) -> None:
    net, values, targets = task(kind, names), np.array(perfect), np.array(truth, np.float64)
    assert net.metric_value(values, targets) == 1.0
    assert net.metric_value(
        values[:, ::-1] if kind in ("classes", "labels") else values, targets
    ) < 1.0 or kind not in (
        "classes",
        "labels",
    )
    loss = net.loss(values, targets)
    assert math.isfinite(loss)
    if kind != "labels":  # of which the third slide has one
        assert net.loss(values[:2], targets[:2]) == pytest.approx(loss)
    assert all(map(math.isfinite, net.others(values, targets).values()))
    assert net.lacks(targets) == ""
    assert net.lacks(targets[2:]) != ""
    assert net.lacks(targets[:0]) != ""
    assert len(net.strata(targets)) == 3
    assert all(isinstance(words, str) for words in net.counts(targets).values())
    assert net.counts(targets[:0]).keys() == net.counts(targets).keys()


# ---- Cells of the manifest


@pytest.mark.parametrize(
    ("kind", "names", "cells", "target"),
    [
        ("classes", ("a", "b"), ["b"], [1]),
        ("classes", ("a", "b"), ["NA"], [NAN]),
        ("ordinal", GRADES, ["5"], [3]),
        ("labels", ("a", "b", "c"), ["1", "", "False"], [1, NAN, 0]),
        ("regression", (), ["-1.5e3"], [-1500]),
        ("regression", (), ["nan"], [NAN]),
        ("survival", (), ["12", "1.0"], [12, 1]),
        ("survival", (), ["", "NA"], [NAN, NAN]),
    ],
)
def test_cells_are_read(kind: str, names: tuple[str, ...], cells: list[str], target: list[float]) -> None:
    asked = {"target": names} if kind == "labels" else {}
    assert task(kind, names, **asked).read(cells) == pytest.approx(target, nan_ok=True)


@pytest.mark.parametrize(
    ("kind", "names", "cells", "complaint"),
    [
        ("classes", ("a", "b"), ["c"], r"t is 'c'; it must be one of a, b"),
        ("ordinal", GRADES, ["4"], r"t is '4'; it must be one of 1, 2, 3, 5"),
        ("labels", ("a", "b"), ["1", "2"], r"b is '2'; it must be 0 or 1"),
        ("regression", (), ["1,5"], r"t is '1,5'; it must be a number"),
        ("regression", (), ["inf"], r"t is 'inf'; it must be a number"),
        ("survival", (), ["5", ""], r"t is '5' and died is ''"),
        ("survival", (), ["-5", "1"], r"t is '-5'; a time must not be negative"),
        ("survival", (), ["5", "dead"], r"died is 'dead'; it must be 0 or 1"),
    ],
)
def test_cells_that_make_no_sense_are_named(
    kind: str, names: tuple[str, ...], cells: list[str], complaint: str
) -> None:
    asked = {"target": names} if kind == "labels" else {}
    with pytest.raises(ConfigError, match=complaint) as caught:
        task(kind, names, **asked).read(cells)
    assert caught.value.remedy


# ---- Settings


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("tasks.os.kind=survival", "survival task needs the column of its event"),
        ("tasks.g.event=died", "others have none"),
        ('tasks.g.target=["a", "b"]', "classes has one column"),
        ('tasks.g.grades=["a", "b"]', "classes has none"),
        ("tasks.g.strength=0", "greater than 0"),
        ("tasks.g.kind=colour", "choose one of classes, labels, ordinal"),
        ("tasks.g.class_weights.a=-1", "greater than 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_config(None, [override])


def test_weights_are_for_tasks_with_classes() -> None:
    with pytest.raises(ConfigError, match="regression has no classes"):
        load_config(None, ["tasks.g.kind=regression", "tasks.g.class_weights=balanced"])


def test_tasks_know_their_columns_and_classes() -> None:
    labels = ["tasks.ihc.kind=labels", 'tasks.ihc.target=["er", "pr"]']
    config = load_config(None, ["tasks.isup.kind=ordinal", *labels, "tasks.site.target=organ"])
    cells = {"isup": ["10", "", "2", "1"], "er": ["1"], "pr": ["0"], "organ": ["lung", "colon", "NA", "lung"]}
    isup, ihc, site = make_tasks(config.tasks, cells)
    assert (isup.spec.names, isup.columns) == (("1", "2", "10"), ("isup",))
    assert (ihc.spec.names, ihc.columns) == (("er", "pr"), ("er", "pr"))
    assert (site.spec.names, site.columns) == (("colon", "lung"), ("organ",))
    specs = [isup.spec, ihc.spec, site.spec]
    assert columns_of(specs)[:8] == [
        "prediction", "prob_1", "prob_2", "prob_10", "expected", "stderr_1", "stderr_2", "stderr_10"
    ]  # fmt: skip
    ends = [f"{end}_{value}" for end in ("low", "high") for value in ("1", "2", "10", "expected")]
    assert columns_of(specs)[9:17] == ends
    assert columns_of(specs)[17:] == [
        "ihc_prediction", "ihc_prob_er", "ihc_prob_pr", "ihc_stderr_er", "ihc_stderr_pr",
        "ihc_low_er", "ihc_low_pr", "ihc_high_er", "ihc_high_pr",
        "site_prediction", "site_prob_colon", "site_prob_lung", "site_stderr_colon", "site_stderr_lung",
        "site_low_colon", "site_low_lung", "site_high_colon", "site_high_lung",
    ]  # fmt: skip
    assert outputs_of(specs) == ["isup", "ihc_er", "ihc_pr", "site_colon", "site_lung"]


@pytest.mark.parametrize(
    ("overrides", "cells", "complaint"),
    [
        (["tasks.g.kind=ordinal"], ["low", "high"], r"grades are high, low: which is higher is not known"),
        (["tasks.g.kind=ordinal"], ["3", "3"], r"task 'g' needs at least 2 classes, got \['3'\]"),
        (
            ["tasks.g.kind=ordinal", 'tasks.g.grades=["low", "expected"]'],
            ["low"],
            r"two columns 'stderr_expected'",
        ),
    ],
)
def test_tasks_that_cannot_be_are_refused(overrides: list[str], cells: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_tasks(load_config(None, overrides).tasks, {"g": cells})


def test_a_task_comes_back_from_its_card() -> None:
    net = task("regression")
    net.fit(np.array([[1.0], [4.0]]))
    back = from_card(to_card(net), {})
    assert (back.spec, back.learned) == (net.spec, net.learned)
    grades = from_card(to_card(task("ordinal", GRADES)), {})
    assert (type(grades), grades.spec.names) == (Ordinal, GRADES)


# ---- Answers


def test_standard_errors_are_those_of_the_mean_of_the_rounds() -> None:
    net = task("regression")
    net.fit(np.array([[0.0], [20.0]]))
    rounds = torch.tensor([[0.1], [0.3], [-0.2]])
    without = (rounds.sum(0) - rounds) / 2
    pieces = torch.tensor([[0.5], [-0.5]])
    answer = net.result(torch.tensor([0.1]), net.spread(torch.tensor([0.1]), without), pieces)
    values = np.array([11.0, 13.0, 8.0])
    assert answer.values == pytest.approx([11.0])
    assert answer.stderr == pytest.approx([values.std(ddof=1) / math.sqrt(3)])
    assert answer.contributions == pytest.approx(np.array([[5.0], [-5.0]])), "in the unit of the number"
    assert net.spread(rounds[0], rounds[:1]).stderr.isnan().all()


def test_a_tolerance_is_for_the_probabilities_of_the_main_task_or_for_its_number() -> None:
    grades, number = task("ordinal", GRADES), task("regression")
    outputs = torch.tensor([0.3, 0.3])
    of_grades = grades.values(outputs[:1].double()).detach()
    of_number = number.values(outputs[1:].double()).detach()
    beside = torch.tensor([0.01] * (len(GRADES) - 1) + [0.02, 0.5])  # the expected grade has the last
    spreads = Spread(beside, of_grades - beside, of_grades), Spread(beside[:1], of_number, of_number + 7.0)
    with torch.inference_mode():
        assert Tasks((grades, number)).reach(outputs, spreads) == pytest.approx(0.02)
        assert Tasks((number, grades)).reach(outputs, spreads[::-1]) == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("kind", "names", "values", "text", "words"),
    [
        ("classes", ("a", "b"), [0.4, 0.6], "b", "a 0.400 ± 0.010, b 0.600 ± 0.010"),
        ("labels", ("a", "b"), [0.5, 0.6], "a;b", "a 0.500 ± 0.010, b 0.600 ± 0.010"),
        ("labels", ("a", "b"), [0.1, 0.2], "", "a 0.100 ± 0.010, b 0.200 ± 0.010"),
        (
            "ordinal", ("1", "2", "3"), [0.45, 0.1, 0.45, 2.0], "2",
            "1 0.450 ± 0.010, 2 0.100 ± 0.010, 3 0.450 ± 0.010",
        ),
        ("regression", (), [1234.5678], "1234.57", "t 1235 ± 0.01"),
        ("survival", (), [-0.25], "-0.25", "t -0.25 ± 0.01"),
    ],
)  # fmt: skip
def test_answers_in_words(
    kind: str, names: tuple[str, ...], values: list[float], text: str, words: str
) -> None:
    spec = TaskSpec("t", kind, names)
    contributions = np.zeros((1, len(spec.outputs)), np.float32)
    answer = TaskResult(spec, np.array(values), np.full(len(values), 0.01), contributions)
    assert answer.text == text
    assert answer.describe() == f"{words} ({COVERS})"
    assert len(spec.values) == len(spec.errors) == len(values)
    if names:
        assert answer.probabilities.tolist() == values[: len(names)]
    else:
        with pytest.raises(WsiAtsError, match=f"'t' is of kind {kind}: its answer is a number"):
            _ = answer.probabilities
