"""Coverage: how often does the interval of an answer hold the exact one, and how many tiles does a budget read?

    python benchmarks/coverage.py --model RUN/model --manifest MANIFEST --split test --size-column patch_fraction

Every slide is read whole once, then with each number of tiles under several seeds. An interval covers where it holds
the probability that all tiles give: this says whether the interval tells of the drawing of tiles, and not whether the
model is right. Slides of the last class with at most `--small` in the column of sizes are counted apart from the
others. The model's main task must be one of classes, named in the manifest's column label. The rule (`UNSEEN` in
wsi_ats/sampling/unseen.py, `REPEATS` in wsi_ats/reading.py) was settled on other tissue groups than those judged here.

"+-2 stderr" is what a reader would make of the standard error alone. Results: benchmarks/results/coverage.{json,md}. A
run that is stopped goes on with the slides that are missing. `--features` is a folder of kept features of frozen
networks (`train.feature_store`), which saves most of the time.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adaptive import rows_of

from wsi_ats.cache import TileCache
from wsi_ats.features.store import FeatureStore
from wsi_ats.lowres.prepare import prepare
from wsi_ats.manifest import Row
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import load_model
from wsi_ats.predict import predict_prepared
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.slides import open_slide

HERE = Path(__file__).parent
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--tiles", type=int, nargs="*", default=[32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size-column", default="patch_fraction")
    parser.add_argument("--small", type=float, default=0.01)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "coverage.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_model(given.model)
    kept = json.loads(given.out.read_text()) if given.out.exists() else []
    slides = [slide for slide in kept if slide["model"] == model.hash]
    done = {slide["slide"] for slide in slides}
    rows = rows_of(given.manifest, given.split, model)
    sizes = sizes_of(given.manifest, given.size_column)
    store = None if given.features is None else FeatureStore(given.features, 1 << 40)
    for row in rows:
        if Path(row.slide).name in done:
            continue
        model.cache = TileCache(4 << 30, store)
        slides.append(read(model, row, given.tiles, given.seeds, sizes.get(row.slide, float("nan"))))
        print(f"{row.slide}: {len(slides)}/{len(rows)}", flush=True)
        given.out.write_text("[\n" + ",\n".join(map(json.dumps, slides)) + "\n]\n")
        given.out.with_suffix(".md").write_text(
            report(slides, len(rows), given.tiles, given.seeds, given.small)
        )


def sizes_of(manifest: Path, column: str) -> dict[str, float]:
    """The number in a column of a CSV manifest, by slide."""
    with manifest.open(newline="") as file:
        return {row["slide"]: float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def read(model: AttentionSampler, row: Row, tiles: Sequence[int], seeds: int, size: float) -> Record:
    """What the readings of one slide answer, and what its tiles do all together."""
    with open_slide(row.path, mpp=row.mpp, srgb=model.srgb) as slide:
        prepared = prepare(slide, model.config, keep_open=True)
        with torch.inference_mode():
            attention = model.eval().attend(prepared)
        model.attend = lambda _: attention  # the same for every reading of this slide
        exact = predict_prepared(model, prepared, Reading.of(sampler="all"))
        runs = {
            str(n): [
                answer_of(predict_prepared(model, prepared, Reading.of(n, seed=seed)))
                for seed in range(seeds)
            ]
            for n in tiles
        }
    del model.attend
    truth = model.classes.index(row.label)
    return {
        "slide": Path(row.slide).name,
        "model": model.hash,
        "label": truth,
        "size": size,
        "of": exact.tiles_read,
        "p": float(exact.probabilities[-1]),
        "runs": runs,
    }


def answer_of(prediction: Prediction) -> Record:
    """The last class's part of an answer."""
    ends = prediction.low, prediction.high
    assert ends[0] is not None
    assert ends[1] is not None
    numbers = {"p": prediction.probabilities, "stderr": prediction.stderr, "low": ends[0], "high": ends[1]}
    return {"tiles": prediction.tiles_read, **{name: float(values[-1]) for name, values in numbers.items()}}


def report(slides: Sequence[Record], of: int, tiles: Sequence[int], seeds: int, small: float) -> str:
    last = max(slide["label"] for slide in slides)
    groups = {
        "all": slides,
        "other classes": [s for s in slides if s["label"] != last],
        f"last class, at most {small:g}": [s for s in slides if s["label"] == last and s["size"] <= small],
        f"last class, more than {small:g}": [s for s in slides if s["label"] == last and s["size"] > small],
    }
    lines = [
        "# Coverage of the exact answer by 95 % intervals",
        "",
        f"{len(slides)} of {of} slides, of {min(s['of'] for s in slides)} to {max(s['of'] for s in slides)} tissue "
        f"tiles, {seeds} seeds of the draws each, one model. `python benchmarks/coverage.py`, Python "
        f"{platform.python_version()}, torch {torch.__version__}.",
        "",
        "| tiles asked for | slides | number | tiles read | interval covers | +-2 stderr covers | width, mean | width, "
        "median | mean distance to the exact answer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for n in tiles:
        lines += [f"| {n} | {name} | {figures(group, n)} |" for name, group in groups.items() if group]
    return "\n".join(lines) + "\n"


def figures(slides: Sequence[Record], n: int) -> str:
    runs = [(run, slide["p"]) for slide in slides for run in slide["runs"][str(n)]]
    p, stderr, low, high, read = (
        np.array([run[key] for run, _ in runs]) for key in ("p", "stderr", "low", "high", "tiles")
    )
    exact = np.array([whole for _, whole in runs])
    inside = ((low - 1e-9 <= exact) & (exact <= high + 1e-9)).mean()
    naive = (np.abs(p - exact) <= 2 * stderr + 1e-9).mean()
    spread = f"{read.min()} to {read.max()}" if read.min() < read.max() else f"{read.min()}"
    numbers = (inside, naive, (high - low).mean(), np.median(high - low), np.abs(p - exact).mean())
    return " | ".join([str(len(slides)), spread, *(f"{number:.3f}" for number in numbers)])


if __name__ == "__main__":
    main()
