"""The examples in docstrings run, and what users and extenders meet has one."""

from __future__ import annotations

import doctest
import inspect
from importlib import import_module
from pkgutil import resolve_name

import pytest

from tests.test_import_order import FILES

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS

NAMED = {
    "wsi_ats.atomic": "make_atomic write_atomic",
    "wsi_ats.cache": "TileCache",
    "wsi_ats.catalogue": "code_of is_random one_of",
    "wsi_ats.config": "config_hash load_config template",
    "wsi_ats.errors": "ConfigError Failure MissingMppError ModelError NoTissueError SlideError WsiAtsError",
    "wsi_ats.estimator": "expectation plain_summary refined_expectation",
    "wsi_ats.geometry": (
        "Box Grid Grid.cells_at Grid.centres Grid.corners Grid.covering Grid.hilbert_order Level Pyramid Region Size"
    ),
    "wsi_ats.lowres.prepare": "prepare",
    "wsi_ats.lowres.tissue": "tissue_cells tissue_mask",
    "wsi_ats.lowres.view": "frame_view read_view",
    "wsi_ats.manifest": "read_manifest",
    "wsi_ats.manifest.audit": "association audit",
    "wsi_ats.manifest.split_files": "clam_bytes patho_bench_bytes read_splits",
    "wsi_ats.prediction": "Prediction",
    "wsi_ats.prefetch": "prefetch",
    "wsi_ats.reading": "Reading",
    "wsi_ats.sampling": "Draws draw draw_many generator_for pool smooth systematic_at",
    "wsi_ats.slides": ("Slide.dask Slide.read Slide.read_at_mpp Slide.read_many open_slide"),
    "wsi_ats.stopwatch": "Stopwatch",
    "wsi_ats.tasks.answer": "TaskResult TaskSpec median_grade",
    "wsi_ats.statistics.conformal": "fit_conformal",
    "wsi_ats.statistics.interval": "Interval area_limits bootstrap mean_interval share_interval",
    "wsi_ats.statistics.metrics": "auc auc_interval balanced_accuracy c_index quadratic_kappa r2",
    "wsi_ats.statistics.operating_point": "choose_operating_point",
}
"""What must have an example, by module."""


class Finder(doctest.DocTestFinder):
    """Finds the examples of decorated functions, too: under pytest every function is (jaxtyping's import hook)."""

    def _from_module(self, module: object, object: object) -> bool:
        return super()._from_module(module, inspect.unwrap(object))  # type: ignore[misc, arg-type]


WITH_EXAMPLES = [name for name, path in FILES.items() if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name: str) -> None:
    tests = [test for test in Finder(exclude_empty=True).find(import_module(name), name) if test.examples]
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for test in tests:
        runner.run(test, out=said.append)
    examples = sum(len(test.examples) for test in tests)
    assert not said, "".join(said)
    written = FILES[name].read_text(encoding="utf-8").count(">>> ")
    assert examples == written, f"of {written} lines with >>> only {examples} were found"


@pytest.mark.parametrize("name", [f"{module}:{name}" for module in NAMED for name in NAMED[module].split()])
def test_it_has_an_example(name: str) -> None:
    assert ">>> " in (resolve_name(name).__doc__ or "")
