"""Slide AUC on slides composed of real colon tiles: attention sampling against what else one could do.

    python benchmarks/mosaic.py --tiles TILES --weights MOBILENET.npz --work FOLDER

Slides of the train groups are split into 260 to train on and 40 to choose the epoch by; the 100 slides of the val
groups, whose tiles no training has seen, are classified once at the end. A slide has about 670 tissue tiles. Every
method that samples reads N = 32 tiles a slide, in training and at the end; the others say what they read. What the
models would have answered from other numbers of tiles, and for small and large tumours apart, is told beside it.
Features of the frozen MobileNet are kept in FOLDER/features for every method and seed: the first training that meets a
tile takes the time to read it and to make its features. `cpu_seconds` are those of all threads of the
process: they stay the same where others use the machine. Results go to benchmarks/results/mosaic.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from baselines import POOLS, DownsampledCNN
from mosaic_all_tiles import all_tiles, bags_of, score_of

from wsi_ats.cache import TileCache
from wsi_ats.config import Config, load_config
from wsi_ats.demo import concentration
from wsi_ats.features.store import FeatureStore
from wsi_ats.manifest import Row, read_manifest
from wsi_ats.model import AttentionSampler
from wsi_ats.model_folder import load_model
from wsi_ats.predict import predict_prepared
from wsi_ats.reading import Reading as Budget
from wsi_ats.statistics.metrics import auc, auc_interval
from wsi_ats.synthetic.mosaic import load_tiles, write_cohort
from wsi_ats.synthetic.truth import SlideTruth
from wsi_ats.train.data import Examples
from wsi_ats.train.run import train

CLASSES = ("benign", "tumour")
COUNTS = {"train": 300, "val": 100}
CHOOSE = 40
SIZE = 10080
SEED = 1
TILES = 32
DRAWS = 5
"""Draws over which the AUC by number of tiles and by share of tumour is averaged."""
THIRDS = ("small", "middle", "large")
COMMON = ["view.block=256", "view.normalise=true", "sampling.prior=0.5", "train.shift=0.5"]
OWN = ["view.mpp=8.0", "attention.network=deep", "attention.stride=14"]
"""An attention network from scratch; a cell has the size of a tile, 112 um."""
PRETRAINED = ["view.mpp=3.5", "attention.network=mobilenet-v1", "attention.stride=32", "attention.width=32"]
MOBILENET = [
    *["tile.px=112", "tile.mpp=1.0", "features.network=mobilenet-v1", "sampling.tiles=32"],
    *["train.epochs=30", "train.patience=30", "train.cache_mb=4096"],
    "train.lr=1e-3",
]
BOTH = [*PRETRAINED, *MOBILENET]
SCRATCH = [
    *[*OWN, "tile.px=56", "tile.mpp=2.0", "train.epochs=20", "train.patience=20"],
    *["sampling.prior=1.0", "train.shift=0.0"],
]
"""With prior 0.5 a feature network from scratch does not begin to learn."""
METHODS = {
    "MobileNet, refined attention": BOTH,
    "MobileNet, plain attention": [*BOTH, "sampling.refined=false"],
    "MobileNet, full soft attention": [*BOTH, "sampling.refined=false", "sampling.sampler=all"],
    "MobileNet, uniform sampling, refined": [*BOTH, "sampling.uniform=true"],
    "MobileNet, uniform sampling, mean": [*BOTH, "sampling.uniform=true", "sampling.refined=false"],
    "from scratch, refined attention": SCRATCH,
    "from scratch, uniform sampling, refined": [*SCRATCH, "sampling.uniform=true"],
}
CNN = "downsampled CNN"
WHOLE = {f"MobileNet, all tiles, {pool}": pool for pool in POOLS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=Path, required=True, help="folder of labelled tiles with tiles.csv")
    parser.add_argument("--weights", type=Path, required=True, help="npz of MobileNet v1")
    parser.add_argument("--work", type=Path, required=True, help="folder for slides and runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=[*METHODS, *WHOLE, CNN])
    parser.add_argument("--set", nargs="*", default=[], help="settings for every method, section.key=value")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "mosaic.json")
    arguments = parser.parse_args()

    rows = make_slides(arguments.tiles, arguments.work / "slides")
    cache = TileCache(4 << 30, FeatureStore(arguments.work / "features", 16 << 30))
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else []
    for name in arguments.methods:
        for seed in range(arguments.seeds):
            if any((r["method"], r["seed"]) == (name, seed) for r in results):
                continue
            settings = [*COMMON, *METHODS.get(name, OWN if name == CNN else BOTH), *arguments.set]
            for part in ("attention", "features"):
                if f"{part}.network=mobilenet-v1" in settings:
                    settings.append(f"{part}.weights={arguments.weights}")
            config = config_of(settings, seed)
            if name == CNN:
                result = downsampled(rows, config)
            elif name in WHOLE:
                result = whole(rows, config, WHOLE[name], cache)
            else:
                kept = cache if name.startswith("MobileNet") else None
                result = sampled(rows, config, arguments.work / f"{name}-{seed}", kept)
            results.append({"method": name, "seed": seed, **result})
            print(json.dumps(results[-1]), flush=True)
            save(results, arguments.results)


def make_slides(tiles: Path, folder: Path) -> list[Row]:
    """The slides, made once; of the train groups' slides the last ones choose the epoch."""
    if not (folder / "manifest.csv").exists():
        write_cohort(folder, load_tiles(tiles), COUNTS, size=SIZE, seed=SEED, on_slide=print)
    rows = read_manifest(folder / "manifest.csv")
    learn = [row for row in rows if row.split == "train"]
    return [
        *learn[:-CHOOSE],
        *(replace(row, split="val") for row in learn[-CHOOSE:]),
        *(replace(row, split="test") for row in rows if row.split == "val"),
    ]


def config_of(settings: Iterable[str], seed: int) -> Config:
    return load_config(None, [*settings, f"train.seed={seed}"])


def sampled(rows: list[Row], config: Config, out: Path, cache: TileCache | None) -> dict[str, float]:
    """Train as `wsi-ats train` does, predict the test slides as `wsi-ats predict` does."""
    cpu = time.process_time()
    result = train(rows, config, out, overwrite=True, cache=cache)
    cpu = time.process_time() - cpu
    model = load_model(result.folder)
    model.cache = TileCache(0) if cache is None else cache
    test = [row for row in rows if row.split == "test"]
    start = time.monotonic()
    sampler = "all" if config.sampling.sampler == "all" else "systematic"
    predictions = [model.predict(row.path, TILES, sampler, config.train.seed, repeats=1) for row in test]
    seconds = (time.monotonic() - start) / len(test)
    answers, labels = np.array([p.probabilities for p in predictions]), labels_of(test)
    tumour = [(p, row) for p, row in zip(predictions, test, strict=True) if row.label == "tumour"]
    spot = concentration([p for p, _ in tumour], [truth_of(row) for _, row in tumour])
    return {
        **interval_of(answers, labels),
        **({} if cache is None or sampler == "all" else in_detail(model, test)),
        "attention_times_chance": round(spot.times, 1),
        "tiles_read": float(np.mean([p.tiles_read for p in predictions])),
        "tissue_tiles": float(np.mean([len(p.tissue) for p in predictions])),
        "epochs": result.epochs,
        "train_seconds": round(result.seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "predict_seconds": round(seconds, 3),
    }


def in_detail(model: AttentionSampler, test: list[Row]) -> dict[str, object]:
    """Slide AUC from other numbers of tiles, the mean of several draws; and from N tiles by the tumour's share of the
    tissue: its lower, middle and upper third, against all negatives."""
    examples = Examples(test, CLASSES, model.config, 1 << 30)
    prepared_slides = [examples[i].prepared for i in range(len(examples))]
    labels, by_tiles, by_share = labels_of(test), {}, {}
    shares = np.array([truth_of(row).lesion_share for row in test])
    thirds = np.digitize(shares, np.quantile(shares[labels == 1], [1 / 3, 2 / 3]))
    for tiles in (8, 16, 32, 64, 128):
        draws = [
            np.array(
                [
                    predict_prepared(model, x, Budget(tiles, repeats=1, seed=s)).probabilities
                    for x in prepared_slides
                ]
            )
            for s in range(DRAWS)
        ]
        by_tiles[str(tiles)] = mean_auc(draws, labels)
        for third, name in enumerate(THIRDS) if tiles == TILES else ():
            some = (labels == 0) | (thirds == third)
            by_share[name] = mean_auc([answers[some] for answers in draws], labels[some])
    return {"auc_by_tiles": by_tiles, "auc_by_tumour_share": by_share}


def mean_auc(draws: list[np.ndarray], labels: np.ndarray) -> float:
    return round(float(np.mean([auc(answers, labels) for answers in draws])), 4)


def whole(rows: list[Row], config: Config, pool: str, cache: TileCache) -> dict[str, float]:
    """Multiple-instance learning on all tiles; the epoch is chosen as for the others."""
    start, cpu = time.monotonic(), time.process_time()
    bags = bags_of(rows, CLASSES, config, cache)
    (answers, labels), epochs = all_tiles(bags, config, pool)
    return {
        **interval_of(answers, labels),
        "tiles_read": float(np.mean([len(bag.features) for bag in bags["test"]])),
        "epochs": epochs,
        "train_seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def downsampled(rows: list[Row], config: Config, epochs: int = 20) -> dict[str, float]:
    """A CNN on the view alone, flipped at random; the epoch is chosen as for the others."""
    start, cpu = time.monotonic(), time.process_time()
    views = {s: views_of([r for r in rows if r.split == s], config) for s in ("train", "val", "test")}
    torch.manual_seed(config.train.seed)
    net = DownsampledCNN(len(CLASSES))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    best, chosen = -math.inf, np.zeros(0)
    for _ in range(epochs):
        net.train()
        for index in torch.randperm(len(views["train"])).tolist():
            view, label = views["train"][index]
            flips = [axis for axis in (2, 3) if torch.rand(()) < 0.5]
            loss = torch.nn.functional.cross_entropy(net(view.flip(flips)), torch.tensor([label]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = score_of(*answers_of(net, views["val"]))
        if score > best:
            best, chosen = score, answers_of(net, views["test"])[0]
    return {
        **interval_of(chosen, labels_of([row for row in rows if row.split == "test"])),
        "tiles_read": 0.0,
        "epochs": epochs,
        "train_seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def views_of(rows: list[Row], config: Config) -> list[tuple[torch.Tensor, int]]:
    examples = Examples(rows, CLASSES, config, 1 << 30)
    pixels = [(examples[i].prepared.view.pixels, examples[i].label) for i in range(len(examples))]
    return [(torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255, label) for p, label in pixels]


@torch.no_grad()
def answers_of(net: DownsampledCNN, views: list[tuple[torch.Tensor, int]]) -> tuple[np.ndarray, np.ndarray]:
    net.eval()
    answers = torch.cat([net(view).softmax(1) for view, _ in views]).double().numpy()
    return answers, np.array([label for _, label in views])


def interval_of(answers: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    interval = auc_interval(answers, labels)
    return {"auc": interval.value, "low": interval.low, "high": interval.high}


def labels_of(rows: list[Row]) -> np.ndarray:
    return np.array([CLASSES.index(row.label) for row in rows])


def truth_of(row: Row) -> SlideTruth:
    return SlideTruth.load(Path(row.path).with_suffix(".geojson"))


def save(results: list[dict[str, object]], path: Path) -> None:
    """The results as JSON, and as a table beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    groups = defaultdict(list)
    for result in results:
        groups[result["method"]].append(result)
    lines = [
        "# Mosaic slides: slide AUC on slides of unseen tile groups",
        "",
        f"Made by `benchmarks/mosaic.py` on {platform.machine()}, {torch.get_num_threads()} torch thread(s), "
        f"torch {torch.__version__}; N = 32 tiles a slide where tiles are sampled.",
        "",
        "| method | AUC, mean | AUC, each seed | attention on tumour, x chance | tiles read | training, CPU s |",
        "|---|---|---|---|---|---|",
    ]
    for name, group in groups.items():
        each = " ".join(f"{r['auc']:.3f}" for r in group)
        times = [r["attention_times_chance"] for r in group if "attention_times_chance" in r]
        mean = {key: np.mean([r[key] for r in group]) for key in ("auc", "tiles_read", "cpu_seconds")}
        spot = f"{np.mean(times):.0f}" if times else ""
        lines.append(
            f"| {name} | {mean['auc']:.3f} | {each} | {spot} | {mean['tiles_read']:.0f} "
            f"| {mean['cpu_seconds']:.0f} |"
        )
    lines += detail(groups, "auc_by_tiles", "tiles read at the end") if groups else []
    lines += (
        detail(groups, "auc_by_tumour_share", "third of the tumours, by share of the tissue")
        if groups
        else []
    )
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def detail(groups: dict[str, list[dict[str, object]]], key: str, what: str) -> list[str]:
    """A table of AUCs, means of the seeds, for the methods that have them."""
    told = {name: [r[key] for r in group if key in r] for name, group in groups.items()}
    told = {name: each for name, each in told.items() if each}
    if not told:
        return []
    columns = list(next(iter(told.values()))[0])
    lines = [
        "",
        f"AUC by {what}:",
        "",
        f"| method | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, each in told.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{np.mean([e[c] for e in each]):.3f}" for c in columns) + " |"
        )
    return lines


if __name__ == "__main__":
    main()
