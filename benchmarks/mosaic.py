"""Slide AUC on slides composed of real colon tiles: attention sampling against what else one could do.

    python benchmarks/mosaic.py --tiles TILES --weights MOBILENET.npz --work FOLDER

A slide is of one of three sets of tile groups, which share none: 240 to train on; 80 to choose the epoch by, to
calibrate on and to choose threshold and prediction sets by; 100 of the val groups, classified once at the end. A slide
has about 670 tissue tiles. Every method that samples reads N = 32 tiles a slide, in training and at the end; the others
say what they read. What the models would have answered from other numbers of tiles, and for small and large tumours
apart, is told beside it, and what a calibration anew on 20 slides of the val groups does for the 80 others.
Features of the frozen MobileNet are kept in FOLDER/features for every method and seed: the first training that meets a
tile takes the time to read it and to make its features. `cpu_seconds` are those of all threads of the
process: they stay the same where others use the machine. Results go to benchmarks/results/mosaic.{json,md}.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from baselines import POOLS, DownsampledCNN
from mosaic_all_tiles import all_tiles, bags_of, score_of
from scipy.optimize import brentq
from scipy.special import expit

from wsi_ats.cache import TileCache
from wsi_ats.config import Config, load_config
from wsi_ats.demo import concentration
from wsi_ats.features.store import FeatureStore
from wsi_ats.manifest import Row
from wsi_ats.model_folder import load_model
from wsi_ats.predict import predict_prepared
from wsi_ats.prediction import Prediction
from wsi_ats.reading import Reading as Budget
from wsi_ats.slide_model import SlideModel
from wsi_ats.statistics.metrics import auc, auc_interval, balanced_accuracy
from wsi_ats.synthetic.mosaic import load_tiles, write_cohort
from wsi_ats.synthetic.truth import SlideTruth
from wsi_ats.train.calibrate import calibrate, outputs_of_tasks, values_of_outputs
from wsi_ats.train.data import Examples
from wsi_ats.train.run import train

CLASSES = ("benign", "tumour")
COUNTS = {"train": 240, "choose": 80, "test": 100}
SPLITS = {"train": "train", "choose": "val", "test": "test"}
"""Splits of training by those of the tiles."""
OWN_SLIDES = 20
"""Slides of the test groups that a model is calibrated on anew."""
SIZE = 10080
SEED = 11
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
    "MobileNet, refined attention, 3 members": [*BOTH, "train.members=3"],
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
    """The slides, made once. Of the tiles' train groups every fourth, by a digest of its name, is kept from training:
    an epoch, a calibration and a threshold that are chosen on tissue which training has seen prove nothing."""
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        tile_set = load_tiles(tiles)
        splits = tuple(map(three_sets, tile_set.groups, tile_set.splits))
        write_cohort(folder, replace(tile_set, splits=splits), COUNTS, size=SIZE, seed=SEED, on_slide=print)
    rows = pd.read_csv(manifest)
    return [
        Row(slide, folder / slide, label, slide, SPLITS[split], None)
        for slide, label, split in zip(rows.slide, rows.label, rows.split, strict=True)
    ]


def three_sets(group: str, split: str) -> str:
    """Set of a group of tiles."""
    if split == "val":
        return "test"
    return "choose" if int(sha256(group.encode()).hexdigest(), 16) % 4 == 0 else "train"


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
        **at_one_half(answers, labels),
        **decisions(model, predictions, labels, config.train.seed),
        **({} if cache is None or sampler == "all" else in_detail(model, test)),
        "attention_times_chance": round(spot.times, 1),
        "tiles_read": float(np.mean([p.tiles_read for p in predictions])),
        "tissue_tiles": float(np.mean([len(p.tissue) for p in predictions])),
        "epochs": result.epochs,
        "train_seconds": round(result.seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "predict_seconds": round(seconds, 3),
    }


def at_one_half(answers: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share right at a probability of one half, each class the same weight, and the medians of the logits."""
    p = answers.clip(1e-12)
    logits = np.log(p[:, 1]) - np.log(p[:, 0])
    return {
        "balanced_accuracy_at_one_half": share_right(answers.argmax(1), labels),
        "median_logit_benign": round(float(np.median(logits[labels == 0])), 2),
        "median_logit_tumour": round(float(np.median(logits[labels == 1])), 2),
        "offset": round(offset_of(logits, labels), 2),
    }


def offset_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """What would have to be added to the logits for the probabilities to be right on average."""
    return float(brentq(lambda shift: expit(logits + shift).mean() - labels.mean(), -60, 60))


def decisions(
    model: SlideModel, predictions: list[Prediction], labels: np.ndarray, seed: int
) -> dict[str, object]:
    """What threshold and sets of the model are worth on the test slides, and those of a calibration anew on some."""
    named = np.array([CLASSES.index(p.label) for p in predictions])
    found: dict[str, object] = {"balanced_accuracy": share_right(named, labels)}
    sets = [p.main.set for p in predictions]
    if model.specs[0].sets is not None:
        holds = np.array([CLASSES[label] in inside for label, inside in zip(labels, sets, strict=True)])
        found["sets_hold_the_class"] = [round(float(holds[labels == c].mean()), 3) for c in (0, 1)]
        found["sets_mean_size"] = round(float(np.mean([len(inside) for inside in sets])), 3)
    rng = np.random.default_rng(seed)
    anew = []
    for _ in range(DRAWS):
        own = np.concatenate(
            [rng.permutation(np.flatnonzero(labels == c))[: OWN_SLIDES // 2] for c in (0, 1)]
        )
        rest = np.setdiff1d(np.arange(len(labels)), own)
        tasks = copy.deepcopy(model.tasks)
        calibrate(tasks, [predictions[i] for i in own], [labels[own, None].astype(float)], "test slides")
        outputs = outputs_of_tasks([predictions[i] for i in rest])[0]
        values = values_of_outputs(next(iter(tasks)), outputs)
        spec = tasks.specs[0]
        anew.append(share_right(np.array([CLASSES.index(spec.text(v)) for v in values]), labels[rest]))
    found["balanced_accuracy_calibrated_anew"] = round(float(np.mean(anew)), 4)
    return found


def share_right(named: np.ndarray, labels: np.ndarray) -> float:
    return round(balanced_accuracy(named, labels), 4)


def in_detail(model: SlideModel, test: list[Row]) -> dict[str, object]:
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
    lines += answers(groups)
    lines += detail(groups, "auc_by_tiles", "tiles read at the end") if groups else []
    lines += (
        detail(groups, "auc_by_tumour_share", "third of the tumours, by share of the tissue")
        if groups
        else []
    )
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def answers(groups: dict[str, list[dict[str, object]]]) -> list[str]:
    """A table of what the answers are worth that the models give, each seed."""
    lines = [
        "",
        "Answers on the slides of unseen groups: balanced accuracy at the model's own threshold, at one half, and "
        f"after a calibration anew on {OWN_SLIDES} of these slides (others judged, mean of {DRAWS} choices); what "
        "would have to be added to the logits for probabilities that are right on average; median logits; prediction "
        "sets at an error rate of .1:",
        "",
        "| method | own threshold | one half | anew | offset | median logit benign / tumour "
        "| sets hold benign / tumour | sets' mean size |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, group in groups.items():
        some = [r for r in group if "balanced_accuracy" in r]
        if not some:
            continue

        def each(key: str, form: str = ".3f", some: list[dict[str, object]] = some) -> str:
            return " ".join(f"{r[key]:{form}}" for r in some if key in r)

        medians = "; ".join(f"{r['median_logit_benign']:.1f} / {r['median_logit_tumour']:.1f}" for r in some)
        hold = "; ".join(
            " / ".join(map(str, r["sets_hold_the_class"])) for r in some if "sets_hold_the_class" in r
        )
        lines.append(
            f"| {name} | {each('balanced_accuracy')} | {each('balanced_accuracy_at_one_half')} "
            f"| {each('balanced_accuracy_calibrated_anew')} | {each('offset', '+.1f')} | {medians} | {hold} "
            f"| {each('sets_mean_size', '.2f')} |"
        )
    return lines


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
