"""The model card: what a model was trained on, what it is worth and what it is not for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_ats.errors import Failure
from wsi_ats.manifest import Row
from wsi_ats.metrics import Interval
from wsi_ats.model import AttentionSampler

CARD = """\
# Attention-sampling slide classifier

Classes: {classes}. Settings: `config.toml` in this folder.

## Trained on

{splits}

{failed} slide(s) could not be used; {bad} damaged tile(s) of others were background. Training took {epochs} epochs,
{seconds:.0f} s.

## Validation

| metric | value |
|---|---|
| AUC (95 % bootstrap interval over slides) | {auc} |
| balanced accuracy | {accuracy:.3f} |

The epoch was chosen on these same validation slides, so the figures lean to the optimistic side; a test set that
training never saw is the fair judge.

## Intended use

Research. Not a medical device: no diagnosis may rest on its answers. Slides from other scanners, stains, sites or
tissues than those above need a validation of their own.

## Licence

The weights carry the licence that the owner of the training slides gives them; none is implied here.
"""


@dataclass(frozen=True)
class Trained:
    """What a training run leaves."""

    folder: Path
    """The model folder, for `load_model`."""
    val_auc: Interval
    val_balanced_accuracy: float
    epochs: int
    seconds: float
    failures: list[Failure]
    bad_tiles: Mapping[str, int]
    """Slide -> damaged tiles that were learned from, or judged by, as background."""


def model_card(model: AttentionSampler, rows: Sequence[Row], result: Trained) -> str:
    """Markdown text of the card."""
    return CARD.format(
        classes=", ".join(model.classes),
        splits=_splits_table(rows, model.classes),
        failed=len(result.failures),
        bad=sum(result.bad_tiles.values()),
        epochs=result.epochs,
        seconds=result.seconds,
        auc=result.val_auc,
        accuracy=result.val_balanced_accuracy,
    )


def _splits_table(rows: Sequence[Row], classes: Sequence[str]) -> str:
    lines = [f"| split | slides | patients | {' | '.join(classes)} |", "|---" * (3 + len(classes)) + "|"]
    for split in ("train", "val"):
        mine = [row for row in rows if row.split == split]
        counts = Counter(row.label for row in mine)
        cells = [split, len(mine), len({row.patient for row in mine}), *(counts[c] for c in classes)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
