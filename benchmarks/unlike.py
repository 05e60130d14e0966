"""Are slides unlike the training slides flagged, and are slides like them left alone?

    python benchmarks/unlike.py --name demo --model DEMO/run/model --manifest DEMO/slides/manifest.csv --others FOLDER

The manifest's train and val rows are those that the model was trained on; where the model has no reference, one is made
from them, as training does. Its test rows are the slides like those: the share that is flagged is the rate of false
alarms. Some of them are then read through a change of every pixel (lamp, tint, stain, blur), and the slides in
`--others` are of other organs and stains. Results go to benchmarks/results/unlike-NAME.json, and those of all names to
unlike.md.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.color import (
    combine_stains,
    hed_from_rgb,
    rgb_from_hed,
    separate_stains,
)

import wsi_ats
from wsi_ats.cache import TileCache
from wsi_ats.features.store import FeatureStore
from wsi_ats.lowres.prepare import prepare
from wsi_ats.manifest import Row
from wsi_ats.predict import predict_prepared
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading
from wsi_ats.statistics.interval import share_interval
from wsi_ats.statistics.novelty import batch_p_value, expected_rate
from wsi_ats.train.data import Examples
from wsi_ats.train.module import answer
from wsi_ats.train.reference import reference_of

RESULTS = Path(__file__).parent / "results"
Change = Callable[[np.ndarray], np.ndarray]


def lamp(*factors: float) -> Change:
    """Less light, colour by colour."""
    return lambda pixels: (pixels * np.asarray(factors)).round().astype(np.uint8)


def stain(haematoxylin: float, eosin: float) -> Change:
    """More or less of each stain, in optical density (Ruifrok and Johnston's vectors)."""

    def change(pixels: np.ndarray) -> np.ndarray:
        amounts = separate_stains(pixels, hed_from_rgb) * np.array([haematoxylin, eosin, 1.0])
        return (combine_stains(amounts, rgb_from_hed) * 255).round().astype(np.uint8)

    return change


def brown(pixels: np.ndarray) -> np.ndarray:
    """DAB where eosin was: immunohistochemistry."""
    amounts = separate_stains(pixels, hed_from_rgb)
    return (combine_stains(amounts, rgb_from_hed[[0, 2, 1]]) * 255).round().astype(np.uint8)


CHANGES: dict[str, Change] = {
    "lamp x .5": lamp(0.5, 0.5, 0.5),
    "lamp x .7": lamp(0.7, 0.7, 0.7),
    "lamp x .9": lamp(0.9, 0.9, 0.9),
    "yellow light (blue x .85)": lamp(1.0, 1.0, 0.85),
    "eosin x 1.5": stain(1.0, 1.5),
    "haematoxylin x .5": stain(0.5, 1.0),
    "brown for eosin": brown,
    "blur of 4 px": lambda pixels: gaussian_filter(pixels, (4, 4, 0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="name of the trial, a row in the table")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument(
        "--others", type=Path, nargs="*", default=[], help="slides of other organs and stains"
    )
    parser.add_argument(
        "--features", type=Path, help="folder of frozen features of these slides, if there is one"
    )
    parser.add_argument("--changed", type=int, default=16, help="test slides that are changed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    how = parser.parse_args()
    model = wsi_ats.load_model(how.model)
    model.cache = TileCache(1 << 30, FeatureStore(how.features, 20 << 30) if how.features else None)
    rows = rows_of(how.manifest)
    told = learn(model, rows)
    print(told)
    reading = Reading.of()
    test = Examples(rows["test"], list(model.tasks), model.config, 1 << 28, stored=bool(how.features))
    groups = {"as they are": [predict_prepared(model, test[i].prepared, reading) for i in range(len(test))]}
    show(groups)
    some = rows["test"][:: max(1, len(rows["test"]) // how.changed)][: how.changed]
    for name, change in CHANGES.items():
        groups[name] = [found for row in some if (found := predicted(model, row.path, reading, change))]
        show({name: groups[name]})
    others = [(path.stem, found) for path in how.others if (found := predicted(model, path, reading))]
    for name, found in others:
        groups[f"slide {name}"] = [found]
        show({name: [found]})
    how.out.mkdir(exist_ok=True)
    record = {"told": told, "groups": {name: figures(found) for name, found in groups.items()}}
    (how.out / f"unlike-{how.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (how.out / "unlike.md").write_text(report(how.out))


def rows_of(manifest: Path) -> dict[str, list[Row]]:
    """The rows by split; what is called `choose` is for validation."""
    rows: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for entry in csv.DictReader(manifest.open()):
        path = manifest.parent / entry["slide"]
        split = {"choose": "val"}.get(entry["split"], entry["split"])
        rows[split].append(Row(str(path), path, entry["label"], str(path), split, None))
    return rows


def learn(model: wsi_ats.Model, rows: dict[str, list[Row]]) -> str:
    """Give the model a reference where it has none; how that went, in words."""
    if model.reference is not None:
        rank, slides = model.reference.rank, model.reference.slides
        return f"reference of the model: rank {rank} of {slides}, {expected_rate(rank, slides):.1%} expected"
    stored = model.cache.store is not None
    train, val = (
        Examples(rows[s], list(model.tasks), model.config, 1 << 28, stored=stored) for s in ("train", "val")
    )
    told: list[str] = []
    validation = [answer(model, val[i]).description for i in range(len(val))]
    model.reference = reference_of(model, train, validation, 0, told.append)
    return told[0]


def predicted(
    model: wsi_ats.Model, path: Path, reading: Reading, change: Change | None = None
) -> Prediction | None:
    """The prediction of a slide whose pixels are changed as they are read; None where it is refused."""
    try:
        with wsi_ats.open_slide(path, default_mpp=0.5) as slide:
            slide._to_srgb = change
            return predict_prepared(model, prepare(slide, model.config, keep_open=True), reading)
    except wsi_ats.SlideError as error:
        print(path.name, error.message)
        return None


def figures(found: list[Prediction]) -> dict[str, Any]:
    """Flagged slides by what flagged them, scores and the batch test."""
    unlike = [p.unlike for p in found if p.unlike]
    flagged = sum(bool(u.parts) for u in unlike)
    return {
        "slides": len(unlike),
        "flagged": flagged,
        "tones": sum("tones" in u.parts for u in unlike),
        "tiles": sum("tiles" in u.parts for u in unlike),
        "score": float(np.median([u.score for u in unlike])) if unlike else None,
        "least": min((u.score for u in unlike), default=None),
        "p": batch_p_value(flagged, len(unlike), unlike[0].rank, unlike[0].slides) if unlike else None,
    }


def show(groups: dict[str, list[Prediction]]) -> None:
    for name, found in groups.items():
        print(name, figures(found), flush=True)


def report(folder: Path) -> str:
    """The table of all trials."""
    lines = [
        "# Slides unlike the training slides\n",
        "Made by `benchmarks/unlike.py`. A slide is flagged where its score is above 1. In brackets the 95 % interval "
        "of the share; p is the chance of so many flagged slides or more in a batch like the training slides.\n",
    ]
    for path in sorted(folder.glob("unlike-*.json")):
        record = json.loads(path.read_text())
        lines += [
            f"## {path.stem.removeprefix('unlike-')}\n",
            f"{record['told']}.\n",
            "| slides | n | flagged | by tones | by tiles | median score | least score | p of the batch |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, f in record["groups"].items():
            if not f["slides"]:
                lines.append(f"| {name} | 0 | refused | | | | | |")
                continue
            share = share_interval(f["flagged"], f["slides"])
            lines.append(
                f"| {name} | {f['slides']} | {share} | {f['tones']} | {f['tiles']} | {f['score']:.2f} | "
                f"{f['least']:.2f} | {f['p']:.2g} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
