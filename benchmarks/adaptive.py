"""Adaptive reading: tiles read against what the answers are worth, beside fixed readings of the same slides.

    python benchmarks/adaptive.py --model RUN/model --manifest MANIFEST --split test

Every slide is read whole once, then with each tolerance and each fixed number of tiles under several seeds: draws are
random. A slide's view is read once, and the vectors of its tiles are kept from reading to reading (their pixels where
the network was trained); `--features` is a folder of kept features, as of train. The model's main task must be one of
classes, named in the manifest's column label; mosaic.py's test slides are the split val of its manifest.

"error" is |p - p_exact|, of several classes the largest, over slides and seeds; "beyond" is the share of stops with an
error of more than twice the tolerance, "spent" of those that ended above the tolerance, the budget spent. The
interval of an AUC (mean over seeds) is over slides. About 5 minutes of one core on 50 mosaics of 670 tiles with a
frozen MobileNet. Results: benchmarks/results/adaptive.{json,md} and docs/adaptive.png. A run that is stopped goes on
with the slides that are missing.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from wsi_ats.cache import TileCache
from wsi_ats.errors import ConfigError
from wsi_ats.features.store import FeatureStore
from wsi_ats.lowres.prepare import prepare
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import load_model
from wsi_ats.predict import predict_prepared
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading as Budget
from wsi_ats.slides import open_slide
from wsi_ats.statistics.interval import bootstrap
from wsi_ats.statistics.metrics import auc

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
TOLERANCES = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
TILES = (8, 16, 32, 64, 128, 256)
ALL = "all tiles"
Record = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """One way to read a slide; `tiles` are the budget where there is a tolerance."""

    tiles: int | None
    tolerance: float | None = None

    @property
    def name(self) -> str:
        return f"{self.tiles} tiles" if self.tolerance is None else f"tolerance {self.tolerance:g}"


@dataclass(frozen=True)
class Figures:
    """Of one reading, over slides and seeds."""

    reading: Reading
    tiles: float
    quartiles: tuple[float, float, float]
    aucs: list[float]
    """One a seed."""
    low: float | None
    high: float | None
    accuracy: float
    error: float
    stderr: float
    beyond: float | None
    spent: float | None

    @property
    def auc(self) -> float:
        return float(np.mean(self.aucs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--manifest", type=Path, required=True, help="slides with labels")
    parser.add_argument("--split", default="test", help="rows of the manifest to use")
    parser.add_argument("--tolerances", type=float, nargs="*", default=TOLERANCES)
    parser.add_argument("--tiles", type=int, nargs="*", default=TILES, help="fixed readings")
    parser.add_argument("--budget", type=int, help="tiles with a tolerance at most, instead of the default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", type=Path, help="folder of kept features of frozen networks")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "adaptive")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "adaptive.png")
    given = parser.parse_args()

    readings = [
        *(Reading(given.budget, tolerance) for tolerance in given.tolerances),
        *(Reading(tiles) for tiles in given.tiles),
    ]
    model = load_model(given.model)
    rows = rows_of(given.manifest, given.split, model)
    slides = known(given.out, rows, model, readings, given.seeds)
    done = {slide["slide"] for slide in slides}
    store = None if given.features is None else FeatureStore(given.features, 1 << 40)
    for row in rows:
        if row.slide in done:
            continue
        model.cache = TileCache(4 << 30, store)
        slides.append(read(model, row, readings, given.seeds))
        print(f"{row.slide}: {len(slides)}/{len(rows)}", flush=True)
        keep(slides, given.out)
    table = [figures(slides, reading) for reading in readings]
    given.out.with_suffix(".md").write_text(report(slides, table, given.seeds) + "\n")
    draw(slides, table, given.picture)


def rows_of(manifest: Path, split: str, model: AttentionSampler) -> list[Row]:
    """The labelled slides; each class of the model must be among them."""
    rows = [row for row in read_manifest(manifest) if row.split == split]
    missing = set(model.classes) ^ {row.label for row in rows}
    if missing or model.specs[0].kind != "classes":
        raise ConfigError(
            f"{manifest}, split {split}: {len(rows)} slides; the model's classes are {model.classes}",
            "name a split that has slides of each of these classes and of no other",
        )
    return rows


# -- readings


def read(model: AttentionSampler, row: Row, readings: Iterable[Reading], seeds: int) -> Record:
    """What each reading of one slide answers."""
    with open_slide(row.path, mpp=row.mpp, srgb=model.srgb) as slide:
        prepared = prepare(slide, model.config, keep_open=True)
        exact = predict_prepared(model, prepared, Budget.of(sampler="all"))
        runs = {
            reading.name: [
                answer_of(
                    predict_prepared(
                        model,
                        prepared,
                        Budget.of(reading.tiles, seed=seed, tolerance=reading.tolerance),
                    )
                )
                for seed in range(seeds)
            ]
            for reading in readings
        }
    truth = model.classes.index(row.label)
    return {"slide": row.slide, "model": model.hash, "label": truth, ALL: answer_of(exact), "runs": runs}


def answer_of(prediction: Prediction) -> Record:
    return {
        "tiles": prediction.tiles_read,
        "rounds": prediction.rounds,
        "stderr": round(float(prediction.stderr.max()), 6),
        "reach": round(reach(prediction), 6),
        "p": [round(float(p), 6) for p in prediction.probabilities],
    }


def reach(prediction: Prediction) -> float:
    """How far the farthest interval of a probability reaches from it."""
    assert prediction.low is not None
    assert prediction.high is not None
    values = prediction.values
    return float(max((prediction.high - values).max(), (values - prediction.low).max()))


def known(
    out: Path, rows: Iterable[Row], model: AttentionSampler, readings: Iterable[Reading], seeds: int
) -> list[Record]:
    """What an earlier run has found of these slides with this model, where it made all these readings."""
    path, ids = out.with_suffix(".json"), {row.slide for row in rows}
    slides = json.loads(path.read_text()) if path.exists() else []
    return [
        slide
        for slide in slides
        if slide["slide"] in ids
        and slide["model"] == model.hash
        and all(len(slide["runs"].get(reading.name, ())) == seeds for reading in readings)
    ]


def keep(slides: Iterable[Record], out: Path) -> None:
    """One slide a line."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text("[\n" + ",\n".join(json.dumps(slide) for slide in slides) + "\n]\n")


# -- figures


def figures(slides: Sequence[Record], reading: Reading) -> Figures:
    runs = [slide["runs"][reading.name] for slide in slides]
    tiles, stderr, answers = (values(runs, key) for key in ("tiles", "stderr", "p"))
    exact = np.array([slide[ALL]["p"] for slide in slides])
    labels = np.array([slide["label"] for slide in slides])
    errors = np.abs(answers - exact[:, None]).max(-1)

    def mean_auc(chosen: np.ndarray) -> float:
        return float(
            np.mean([auc(answers[chosen, seed], labels[chosen]) for seed in range(answers.shape[1])])
        )

    interval = bootstrap(mean_auc, labels, np.random.default_rng(0))
    beyond = spent = None
    if (tolerance := reading.tolerance) is not None:
        beyond = float((errors > 2 * tolerance).mean())
        each = [run for slide in runs for run in slide]
        unsettled = [r["reach"] > tolerance for r in each]
        spent = float(np.mean(unsettled))
    low, middle, high = np.quantile(tiles, [0.25, 0.5, 0.75])
    return Figures(
        reading,
        float(tiles.mean()),
        (float(low), float(middle), float(high)),
        [auc(answers[:, seed], labels) for seed in range(answers.shape[1])],
        interval.low,
        interval.high,
        float((answers.argmax(-1) == labels[:, None]).mean()),
        float(errors.mean()),
        float(stderr.mean()),
        beyond,
        spent,
    )


def values(runs: Iterable[Iterable[Record]], key: str) -> np.ndarray:
    """(slides, seeds), of probabilities (slides, seeds, classes)."""
    return np.array([[run[key] for run in each] for each in runs])


def whole(slides: Sequence[Record]) -> tuple[float, float, float]:
    """Mean tiles, AUC and accuracy of the exact answers."""
    answers, labels = np.array([s[ALL]["p"] for s in slides]), np.array([s["label"] for s in slides])
    tiles = float(np.mean([s[ALL]["tiles"] for s in slides]))
    return tiles, auc(answers, labels), float((answers.argmax(-1) == labels).mean())


# -- table and picture


def report(slides: Sequence[Record], table: Iterable[Figures], seeds: int) -> str:
    tiles, exact, accuracy = whole(slides)
    lines = [
        "# Adaptive reading: tiles read against the answers",
        "",
        f"Made by `benchmarks/adaptive.py` on {platform.machine()}, {torch.get_num_threads()} torch thread(s), "
        f"torch {torch.__version__}: {len(slides)} slides, {seeds} seeds; model {slides[0]['model'][:8]}.",
        "",
        "| reading | tiles, mean | quartiles | AUC, mean [95 %] | AUC, each seed | accuracy | error, mean "
        "| standard error, mean | beyond | spent |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(line, table),
        f"| {ALL} | {tiles:.1f} | | {exact:.3f} | | {accuracy:.3f} | 0 | 0 | | |",
    ]
    return "\n".join(lines)


def interval(f: Figures) -> str:
    few = f.low is None or f.high is None
    return f"{f.auc:.3f}" if few else f"{f.auc:.3f} [{f.low:.3f}, {f.high:.3f}]"


def line(f: Figures) -> str:
    each = " ".join(f"{value:.3f}" for value in f.aucs)
    quartiles = " ".join(f"{value:.0f}" for value in f.quartiles)
    beyond, spent = ("" if share is None else f"{share:.1%}" for share in (f.beyond, f.spent))
    return (
        f"| {f.reading.name} | {f.tiles:.1f} | {quartiles} | {interval(f)} | {each} "
        f"| {f.accuracy:.3f} | {f.error:.4f} | {f.stderr:.4f} | {beyond} | {spent} |"
    )


def draw(slides: Sequence[Record], table: Sequence[Figures], path: Path) -> None:
    """AUC (dots: single seeds) and error against mean tiles read, adaptive and fixed."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 7), sharex=True, layout="constrained")
    kinds = {
        "adaptive, by tolerance": ("tab:blue", -1, [f for f in table if f.reading.tolerance is not None]),
        "fixed, by number of tiles": ("tab:orange", 1, [f for f in table if f.reading.tolerance is None]),
    }
    for label, (colour, side, some) in kinds.items():
        some = sorted(some, key=lambda f: f.tiles)
        x = [f.tiles for f in some]
        above.plot(x, [f.auc for f in some], "o-", color=colour, label=label)
        above.plot(x, [f.aucs for f in some], ".", color=colour, alpha=0.3, zorder=1)
        below.plot(x, [f.error for f in some], "o-", color=colour, label=label)
        for (at, error), text in labels(some).items():
            below.annotate(
                text,
                (at, error),
                (5 * side, 5 * side),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="bottom" if side > 0 else "top",
                color=colour,
                fontsize=9,
            )
    tiles, exact, _ = whole(slides)
    above.axhline(exact, color="grey", linestyle="--", linewidth=1, label=f"{ALL}, {tiles:.0f} on average")
    above.set_ylabel("AUC over slides")
    above.legend(frameon=False)
    below.set_ylabel("mean |p - p of all tiles|")
    below.set_yscale("log")
    below.set_xscale("log", base=2)
    for axes in (above, below):
        axes.margins(0.12)  # room for the texts
    below.xaxis.set_major_formatter("{x:.0f}")
    below.set_xlabel("tiles read, mean over slides and seeds")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def labels(some: Iterable[Figures]) -> dict[tuple[float, float], str]:
    """(tiles, error) -> tolerance or number of tiles; readings that lie on one another share a label."""
    names: dict[tuple[float, float], str] = {}
    for f in some:
        name = f"{f.reading.tiles if f.reading.tolerance is None else f.reading.tolerance:g}"
        near = [place for place in names if f.tiles < 1.1 * place[0]]
        if near:
            names[near[-1]] += f", {name}"
        else:
            names[f.tiles, f.error] = name
    return names


if __name__ == "__main__":
    main()
