"""Distances against plain linear algebra, limits against what ranks promise."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_ats.statistics.novelty import (
    LEAST,
    Cloud,
    Description,
    Reference,
    batch_p_value,
    expected_rate,
    fit_reference,
)


def slides(rng: np.random.Generator, n: int, shift: float = 0.0, count: float = 32.0) -> list[Description]:
    """Slides whose tiles' mean has 6 coordinates and whose tones are 3."""
    scale = np.linspace(1, 0.01, 6)
    return [
        Description(
            np.float32(rng.normal(shift, scale)), np.full(6, 0.5, np.float32), count, rng.normal(0, 5, 3)
        )
        for _ in range(n)
    ]


@given(st.integers(0, 10**6), st.integers(2, 30))
def test_with_all_axes_the_distance_is_mahalanobis(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    points, others = rng.normal(size=(n, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(5, 4))
    cloud = Cloud.around(points, 0.3, 4)
    away = others - points.mean(0)
    inverse = np.linalg.inv(np.cov(points, rowvar=False) + 0.3**2 * np.eye(4))
    whole = np.einsum("ni,ij,nj->n", away, inverse, away)
    inside, beyond = cloud.distances(others).T
    k = len(cloud.variances)
    assert k == min(4, n - 1)
    # What two or three points leave unsaid has the variance of the unit alone.
    np.testing.assert_allclose(inside * k + beyond * cloud.beyond / 0.3**2, whole, rtol=1e-6)


def test_beyond_the_axes_counts_what_they_leave() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 5)) * [5, 3, 0.1, 0.1, 0.1]
    cloud = Cloud.around(points, 1e-3, 2)
    _, axes = np.linalg.eigh(np.cov(points, rowvar=False))
    other = rng.normal(size=5)
    left = axes[:, :3].T @ (other - points.mean(0))
    rest = np.trace(np.cov(points @ axes[:, :3], rowvar=False)) + 3e-6
    assert cloud.distances(other[None])[0, 1] == pytest.approx((left**2).sum() / rest)


def test_the_mean_of_the_distances_of_the_points_is_one() -> None:
    points = np.random.default_rng(1).normal(size=(500, 8)) * np.arange(1, 9)
    inside, beyond = Cloud.around(points, 1e-9, 3).distances(points).mean(0)
    assert (inside, beyond) == (pytest.approx(1, rel=0.01), pytest.approx(1, rel=0.01))


def test_the_limit_flags_as_many_of_its_own_slides_as_its_rank_says() -> None:
    rng = np.random.default_rng(2)
    others = slides(rng, 99)
    reference = fit_reference(slides(rng, 50), others)
    assert reference is not None
    assert (reference.rank, reference.slides) == (95, 99)
    assert expected_rate(95, 99) == pytest.approx(0.05)
    found = [reference.judge(other) for other in others]
    assert sum(bool(f.parts) for f in found) == 4
    assert [bool(f.parts) for f in found] == [f.score > 1 for f in found]


@pytest.mark.parametrize("others", [40, 0])
def test_false_alarms_are_as_rare_as_is_said(others: int) -> None:
    """Of slides of the same kind, over many references; also where all slides were trained on."""
    rates = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        reference = fit_reference(slides(rng, 40), slides(rng, others))
        assert reference is not None
        rates.append(np.mean([bool(reference.judge(s).parts) for s in slides(rng, 100)]))
    expected = expected_rate(reference.rank, reference.slides)
    assert np.mean(rates) == pytest.approx(expected, abs=4 * np.std(rates) / np.sqrt(60) + 0.01)


def test_a_shift_of_either_part_is_told_apart() -> None:
    rng = np.random.default_rng(3)
    reference = fit_reference(slides(rng, 50), slides(rng, 50))
    assert reference is not None
    plain = replace(slides(rng, 1)[0], tiles=np.zeros(6, np.float32), tones=np.zeros(3))
    assert reference.judge(plain).parts == ()
    assert reference.judge(plain).notes == ()
    tiles = reference.judge(replace(plain, tiles=np.full(6, 9, np.float32)))
    tones = reference.judge(replace(plain, tones=np.full(3, 90.0)))
    assert (tiles.parts, tones.parts) == (("tiles",), ("tones",))
    assert tones.notes == ("unlike the training slides: tones",)
    # Small where the training slides hardly vary: beyond their main components.
    assert reference.judge(replace(plain, tiles=np.array([0, 0, 0, 0, 0, 0.5], np.float32))).parts == (
        "tiles",
    )


def test_a_mean_of_few_tiles_may_be_farther_away() -> None:
    rng = np.random.default_rng(4)
    reference = fit_reference(slides(rng, 50), slides(rng, 50))
    assert reference is not None
    far = Description(np.full(6, 3, np.float32), np.full(6, 0.5, np.float32), 32.0, np.zeros(3))
    scores = [reference.judge(replace(far, count=count)).score for count in (64.0, 32.0, 8.0, 1.0)]
    assert scores[0] == scores[1] > scores[2] > scores[3]


def test_few_slides_have_no_reference() -> None:
    rng = np.random.default_rng(5)
    assert fit_reference(slides(rng, LEAST - 1), []) is None
    reference = fit_reference(slides(rng, 10), slides(rng, LEAST - 10))
    assert reference is not None
    assert (reference.rank, reference.slides) == (LEAST, LEAST)


def test_slides_that_are_all_alike_make_a_reference() -> None:
    same = slides(np.random.default_rng(6), 1) * 40
    reference = fit_reference(same[:20], same[:20])
    assert reference is not None
    assert reference.judge(same[0]).parts == ()
    assert reference.judge(replace(same[0], tones=same[0].tones + 50)).parts == ("tones",)


def test_arrays_bring_a_reference_back() -> None:
    rng = np.random.default_rng(7)
    reference = fit_reference(slides(rng, 50), slides(rng, 50))
    assert reference is not None
    again = Reference.of_arrays(reference.to_arrays())
    for slide in slides(rng, 20, shift=1):
        assert again.judge(slide) == reference.judge(slide)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("tiles.mean", np.zeros(5), "do not fit"),
        ("tiles.axes", np.full((6, 6), np.nan), "not finite"),
        ("tones.variances", np.zeros(3), "above 0"),
        ("scales", np.ones(3), "shape"),
        ("limit", np.array([1.0, 32, 51, 50]), "rank 51"),
        ("limit", np.array([1.0]), "unpack"),
    ],
)
def test_arrays_that_cannot_be_are_refused(name: str, value: np.ndarray, why: str) -> None:
    rng = np.random.default_rng(8)
    reference = fit_reference(slides(rng, 50), slides(rng, 50))
    assert reference is not None
    with pytest.raises(ValueError, match=why):
        Reference.of_arrays(reference.to_arrays() | {name: value})


def test_another_model_s_description_is_refused() -> None:
    rng = np.random.default_rng(9)
    reference = fit_reference(slides(rng, 50), slides(rng, 50))
    assert reference is not None
    with pytest.raises(ValueError, match=r"\(4,\)"):
        reference.judge(Description(np.zeros(4, np.float32), np.zeros(4, np.float32), 32.0, np.zeros(3)))


@pytest.mark.parametrize(("slides_known", "rank", "judged"), [(4, 4, 3), (5, 4, 4), (3, 1, 2)])
def test_the_chance_of_a_batch_is_that_of_all_orders(slides_known: int, rank: int, judged: int) -> None:
    """Every set of places that the batch may have among all slides in order is as likely."""
    counts = []
    for mine in combinations(range(slides_known + judged), judged):
        known = [place for place in range(slides_known + judged) if place not in mine]
        counts.append(sum(place > known[rank - 1] for place in mine))
    for flagged in range(judged + 1):
        chance = np.mean(np.array(counts) >= flagged)
        assert batch_p_value(flagged, judged, rank, slides_known) == pytest.approx(chance)
