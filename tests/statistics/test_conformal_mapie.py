"""Conformal sets against those of MAPIE (T. Cordier et al., COPA 2023).

It has no mode by class for classifiers: it is run on the slides of one class at a time (V. Vovk's Mondrian taxonomy),
and asked about that class alone.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from wsi_ats.statistics.conformal import fit_conformal, least_slides

mapie = pytest.importorskip("mapie.classification", reason="MAPIE is for this test alone")


class Known(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose probabilities are what it is given."""

    def __init__(self, count: int = 2) -> None:
        self.count = count

    @property
    def classes_(self) -> np.ndarray:
        return np.arange(self.count)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, given: np.ndarray) -> np.ndarray:
        return given

    def predict(self, given: np.ndarray) -> np.ndarray:
        return given.argmax(1)


def sets_of_mapie(p: np.ndarray, labels: np.ndarray, asked: np.ndarray, error: float) -> np.ndarray:
    count = p.shape[1]
    columns = []
    for c in range(count):
        one = mapie.SplitConformalClassifier(
            Known(count), confidence_level=1 - error, conformity_score="lac", prefit=True
        )
        one.conformalize(p[labels == c], labels[labels == c])
        columns.append(one.predict_set(asked)[1][:, c, 0])
    return np.stack(columns, 1)


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels:UserWarning")
@pytest.mark.parametrize("error", [0.05, 0.1, 0.2, 0.37])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_sets_are_those_of_mapie(seed: int, classes: int, error: float) -> None:
    rng = np.random.default_rng(seed)
    n = 40 * classes + int(rng.integers(20))
    labels = np.concatenate(
        [np.repeat(np.arange(classes), least_slides(error)), rng.integers(classes, size=n)]
    )
    right = 1.5 * rng.random() * np.eye(classes)[labels]
    p = rng.dirichlet(np.ones(classes), len(labels)) + right
    p /= p.sum(1, keepdims=True)
    asked = rng.dirichlet(np.ones(classes), 500)
    names = tuple(f"class {c}" for c in range(classes))
    ours = fit_conformal(p, labels, names, error, "random slides")(asked)
    theirs = sets_of_mapie(p, labels, asked, error)
    assert (ours == theirs).all()
    assert 0 < ours.mean() < 1
