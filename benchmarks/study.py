"""A study that is killed twice: 5 folds by patient on 100 mosaic slides, from one command, and its figures once more.

    python benchmarks/study.py --slides SLIDES --weights MOBILENET.npz --work FOLDER

SLIDES is the folder of slides that mosaic.py made (FOLDER/slides of its --work). Its 100 test slides become 50 patients
of two slides of one label. `wsi-ats train --folds 5` with mobilenet.toml is killed (-9) in the middle of the second and
of the fourth fold and started again with the same command; another study is left alone. What must be: the same answers
in both tables, no patient in two sets of a fold, every slide answered once by a model that has not seen its patient,
and figures of `wsi-ats evaluate` that are those of scikit-learn, made of predictions.csv alone. Results:
benchmarks/results/study.{json,md}. Put mosaic.py's FOLDER/features at WORK/frozen-features to spare the networks. About
25 minutes on one core with them.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    roc_auc_score,
)

HERE = Path(__file__).parent
CONFIG = HERE.parent / "pipelines" / "configs" / "mobilenet.toml"
FOLDS = 5
KILLS = ((1, 6), (3, 11))
"""Fold, and epochs of it after which the command is killed."""
POSITIVE = "tumour"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--members", type=int, default=1, help="networks a fold")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    manifest = write_manifest(given.slides, given.work / "manifest.csv")
    command = [*wsi_ats("train", manifest), "--config", CONFIG, "--folds", FOLDS]
    for part in ("features", "attention"):
        command += ["--set", f"{part}.weights={given.weights.resolve()}"]
    command += ["--set", f"train.members={given.members}", "--out"]
    seconds: dict[str, float] = {}
    for name, kills in (("killed", KILLS), ("quiet", ())):
        start = time.monotonic()
        for fold, epochs in kills:
            kill_after(fold, epochs, [*command, given.work / name], given.work / name)
        subprocess.run(list(map(str, [*command, given.work / name])), check=True)
        seconds[name] = time.monotonic() - start
    evaluate = [*wsi_ats("evaluate", given.work / "killed", manifest), "--out", given.work / "evaluation"]
    subprocess.run(list(map(str, [*evaluate, "--positive", POSITIVE])), check=True)
    result = {"members": given.members, "seconds": seconds, **compared(given.work, manifest)}
    save(result)


def wsi_ats(*words: object) -> list[object]:
    return [sys.executable, "-m", "wsi_ats", *words]


def write_manifest(slides: Path, path: Path) -> Path:
    """100 slides of 50 patients, two of each with one label."""
    rows = pd.read_csv(slides / "manifest.csv").query("split == 'test'")
    rows["patient"] = [
        f"{label}-{number // 2:02d}"
        for label, number in zip(rows.label, rows.groupby("label").cumcount(), strict=True)
    ]
    rows["slide"] = [str((slides / slide).resolve()) for slide in rows.slide]
    rows[["slide", "label", "patient"]].to_csv(path, index=False)
    return path


def kill_after(fold: int, epochs: int, command: list[object], out: Path) -> None:
    """Start the study and kill it in the epoch after so many of a fold; there must still be something to kill."""
    process = subprocess.Popen(list(map(str, command)))
    log = out / f"fold-{fold}" / "log.csv"
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > epochs):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit(f"the study ended by itself (status {process.returncode}) before fold {fold}")


def compared(work: Path, manifest: Path) -> dict[str, Any]:
    """What must be, and whether it is."""
    table, quiet = (pd.read_csv(work / name / "predictions.csv") for name in ("killed", "quiet"))
    cohort = pd.read_csv(manifest)
    evaluation = json.loads((work / "evaluation" / "evaluation.json").read_text())
    everything = evaluation["tasks"][0]["parts"][0]["figures"]
    told = {figure["name"]: figure for figure in everything if not figure["of"]}
    mine = figures_of(table)
    patients = cohort.set_index("slide").patient
    leaks = 0
    for fold in range(FOLDS):
        rows = pd.read_csv(work / "killed" / f"fold-{fold}" / "slides.csv")
        sets = [set(rows[rows.split == name].patient) for name in ("train", "val", "test")]
        leaks += len(sets[0] & sets[1]) + len(sets[0] & sets[2]) + len(sets[1] & sets[2])
    return {
        "answers_equal": table.equals(quiet),
        "slides": len(table),
        "slides_answered_once": int(table.slide.nunique()),
        "patients": int(patients.nunique()),
        "patients_in_two_sets": leaks,
        "figures": {name: {**told[name], "scikit_learn": value} for name, value in mine.items()},
        "largest_difference": max(abs(told[name]["value"] - value) for name, value in mine.items()),
    }


def figures_of(table: pd.DataFrame) -> dict[str, float]:
    """Figures from the table alone, by scikit-learn."""
    truth, p = table.label == POSITIVE, table[f"prob_{POSITIVE}"]
    called = table.prediction == POSITIVE
    (tn, fp), (fn, tp) = confusion_matrix(truth, called)
    return {
        "auroc": roc_auc_score(truth, p),
        "auprc": average_precision_score(truth, p),
        "balanced_accuracy": balanced_accuracy_score(truth, called),
        "f1": f1_score(truth, called),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "ppv": tp / (tp + fp),
        "npv": tn / (tn + fn),
        "kappa": cohen_kappa_score(truth, called),
        "brier": brier_score_loss(truth, p),
    }


def save(result: dict[str, Any]) -> None:
    path = HERE / "results" / "study.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(report(result)) + "\n")
    print(path.with_suffix(".md").read_text())


def report(result: dict[str, Any]) -> list[str]:
    seconds, kills = result["seconds"], "; ".join(f"fold {f + 1} after {e} epochs" for f, e in KILLS)
    lines = [
        "# A study killed twice",
        "",
        f"Made by `benchmarks/study.py` on {platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}: {result['slides']} mosaic slides of {result['patients']} patients, {FOLDS} folds by "
        f"patient, {result['members']} network(s) a fold, `mobilenet.toml`.",
        "",
        f"- Killed (-9) {len(KILLS)} times ({kills}) and started again: the answers are "
        f"{'equal to' if result['answers_equal'] else 'UNLIKE'} those of a study that was left alone, digit for digit "
        f"({seconds['killed']:.0f} s against {seconds['quiet']:.0f} s).",
        f"- Slides answered once, by a model that has not seen their patient: {result['slides_answered_once']} of "
        f"{result['slides']}. Patients in two sets of a fold: {result['patients_in_two_sets']}.",
        f"- Figures of `wsi-ats evaluate` beside scikit-learn's, made of predictions.csv alone: the largest difference "
        f"is {result['largest_difference']:.1e}.",
        "",
        "| figure | evaluate [95 %, over patients] | scikit-learn |",
        "|---|---|---|",
    ]
    for name, figure in result["figures"].items():
        limits = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
        lines.append(f"| {name} | {figure['value']:.6f}{limits} | {figure['scikit_learn']:.6f} |")
    return lines


if __name__ == "__main__":
    main()
