"""The slope of a calibration against scikit-learn's logistic regression, also where the logits lie close together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from wsi_ats.statistics.calibration_figures import calibration_slope, in_the_large


@pytest.mark.parametrize("spread", [3.0, 0.3, 0.004])
def test_the_slope_is_that_of_logistic_regression(spread: float) -> None:
    rng = np.random.default_rng(0)
    logit = 0.01 + spread * rng.standard_normal(200)
    happened = rng.random(200) < expit(1.5 * (logit - 0.01) / spread)
    (found,) = calibration_slope(expit(logit), happened)(np.ones((1, 200)))
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None] / spread, happened)
    assert found == pytest.approx(fitted.coef_.item() / spread, rel=1e-4)


def test_slides_that_are_parted_have_no_slope() -> None:
    happened = np.arange(20) >= 10
    for spread in (4.0, 0.004):
        p = expit(spread * np.linspace(-1, 1, 20))
        assert np.isnan(calibration_slope(p, happened)(np.ones((1, 20)))).all()
        assert np.isfinite(in_the_large(p, happened)(np.ones((1, 20)))).all()
