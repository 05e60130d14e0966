"""The torch arm put together on slides small enough to train on in seconds: does attention find what was planted?"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

from wsi_ats.attention.networks import PaperAttention, WideAttention, log_attention
from wsi_ats.estimator import attention_loss, expectation, refined_expectation
from wsi_ats.head import Head
from wsi_ats.sampling import Draws, draw, smooth

SIDE, STRIDE, DIM, TILES = 16, 4, 16, 16
CELLS = torch.arange(SIDE * SIDE)


@dataclass(frozen=True)
class Toy:
    view: torch.Tensor  # (3, 64, 64)
    features: torch.Tensor  # (256, 16), of all cells
    lesion: torch.Tensor  # flat cells, 9 of 256 or none
    label: int


def toy(label: int, generator: torch.Generator) -> Toy:
    """Noise with a decoy on every slide and a lesion on positive ones: 3 x 3 cells, each of a hue of its own."""
    view = 0.75 + 0.08 * torch.randn(3, SIDE * STRIDE, SIDE * STRIDE, generator=generator)
    features = 0.15 * torch.randn(SIDE * SIDE, DIM, generator=generator)
    features[:, 0] += 1.0

    def plant(hue: list[float], feature: int) -> torch.Tensor:
        row, col = torch.randint(1, SIDE - 3, (2,), generator=generator).tolist()
        spot = slice(row * STRIDE, (row + 3) * STRIDE), slice(col * STRIDE, (col + 3) * STRIDE)
        view[:, spot[0], spot[1]] += torch.tensor(hue)[:, None, None]
        cells = CELLS.view(SIDE, SIDE)[row : row + 3, col : col + 3].reshape(-1)
        features[cells, feature] += 0.8
        return cells

    plant([-0.1, 0.0, 0.05], 1)
    lesion = plant([0.0, -0.1, -0.05], 2) if label else CELLS[:0]
    return Toy(view.clamp(0, 1), F.normalize(features, dim=1), lesion, label)


def loss_of(
    log_p: torch.Tensor, draws: Draws, slide: Toy, tiles: torch.Tensor, head: Head, score: torch.Tensor | None
) -> torch.Tensor:
    """Of the drawn tiles of a slide; refined attention where there is a score."""
    loss = torch.zeros(())
    if score is not None:
        phi, p = refined_expectation(log_p, draws, tiles, 8 * tiles @ score)
        loss = 0.01 * attention_loss(log_p, draws, p).float()
    else:
        phi = expectation(log_p, draws, tiles)
    return loss + F.cross_entropy(head(phi), torch.tensor(slide.label))


def train(attention: WideAttention | PaperAttention, refined: bool, seed: int, epochs: int) -> float:
    """Attention on the lesions over their share of the slide after training; about 28 is the most possible."""
    generator = torch.Generator().manual_seed(seed)
    slides = [toy(i % 2, generator) for i in range(48)]
    head, score = Head(DIM, 2), torch.zeros(DIM, requires_grad=True)
    rest = [*head.parameters(), score]
    optimiser = torch.optim.AdamW(
        [{"params": attention.parameters(), "lr": 1e-2}, {"params": rest, "lr": 3e-3}]
    )
    for _ in range(epochs):
        for batch in torch.randperm(48, generator=generator).split(8):
            loss = torch.zeros(())
            for slide in (slides[i] for i in batch):
                log_p = smooth(log_attention(attention(slide.view[None])[0], CELLS), 1e-4)
                draws = draw(log_p, TILES, generator=generator)
                tiles = slide.features[draws.cells]
                loss = loss + loss_of(log_p, draws, slide, tiles, head, score if refined else None)
            optimiser.zero_grad()
            (loss / 8).backward()
            torch.nn.utils.clip_grad_norm_([*attention.parameters(), *rest], 1.0)
            optimiser.step()
    with torch.no_grad():
        found = [
            log_attention(attention(s.view[None])[0], CELLS).exp()[s.lesion].sum() for s in slides if s.label
        ]
    return float(torch.stack(found).mean()) * SIDE**2 / 9


@pytest.mark.parametrize("refined", [False, True], ids=["plain", "refined"])
def test_attention_finds_the_planted_cells_within_seconds(refined: bool) -> None:
    torch.manual_seed(0)
    assert train(WideAttention(STRIDE), refined, seed=0, epochs=12) > 15
