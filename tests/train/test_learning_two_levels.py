"""Do two attention networks find what was planted, each seeing the other's work through a few drawn tiles alone?"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.train.test_learning import CELLS, DIM, SIDE, STRIDE, TILES, Toy, loss_of, toy
from wsi_ats.attention.networks import WideAttention
from wsi_ats.head import Head
from wsi_ats.sampling import draw, draw_nested, smooth

REGION, REGIONS = 4, 6
"""Cells a side of a region; regions opened, of 16."""
OWNERS = (CELLS // SIDE // REGION) * (SIDE // REGION) + CELLS % SIDE // REGION


def coarse_attention(net: WideAttention, slide: Toy) -> torch.Tensor:
    """log a (16,) from a view of half the resolution."""
    return smooth(torch.log_softmax(net(F.avg_pool2d(slide.view[None], 2))[0].reshape(-1), 0), 1e-4)


def inside(net: WideAttention, slide: Toy, regions: torch.Tensor) -> torch.Tensor:
    """log a_{j|i} (regions, 16) from the pixels of each region alone, with white around."""
    px = REGION * STRIDE
    blocks = slide.view.unfold(1, px, px).unfold(2, px, px).flatten(1, 2)[:, regions].transpose(0, 1)
    return torch.log_softmax(net(blocks).flatten(1), 1)


def joint(nets: list[WideAttention], slide: Toy, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cells of regions, and log a_ij of each."""
    cells = torch.stack([CELLS[region == OWNERS] for region in regions])
    log_p = coarse_attention(nets[0], slide)[regions, None] + inside(nets[1], slide, regions)
    return cells.reshape(-1), log_p.reshape(-1)


def train(refined: bool, seed: int, epochs: int) -> float:
    """Attention on the lesions over their share of the slide after training; about 28 is the most possible."""
    generator = torch.Generator().manual_seed(seed)
    slides = [toy(i % 2, generator) for i in range(48)]
    nets = [WideAttention(REGION * STRIDE // 2), WideAttention(STRIDE)]
    head, score = Head(DIM, 2), torch.zeros(DIM, requires_grad=True)
    attention, rest = [p for net in nets for p in net.parameters()], [*head.parameters(), score]
    optimiser = torch.optim.AdamW([{"params": attention, "lr": 1e-2}, {"params": rest, "lr": 3e-3}])
    for _ in range(epochs):
        for batch in torch.randperm(48, generator=generator).split(8):
            loss = torch.zeros(())
            for slide in (slides[i] for i in batch):
                regions = draw(coarse_attention(nets[0], slide), REGIONS, generator=generator)
                cells, log_p = joint(nets, slide, regions.cells)
                draws = draw_nested(log_p, OWNERS[cells], regions, TILES, generator=generator)
                tiles = slide.features[cells[draws.cells]]
                loss = loss + loss_of(log_p, draws, slide, tiles, head, score if refined else None)
            optimiser.zero_grad()
            (loss / 8).backward()
            torch.nn.utils.clip_grad_norm_([*attention, *rest], 1.0)
            optimiser.step()
    found = []
    with torch.no_grad():
        for slide in slides[1::2]:
            cells, log_p = joint(nets, slide, torch.arange((SIDE // REGION) ** 2))
            found.append(log_p.exp()[torch.isin(cells, slide.lesion)].sum())
    return float(torch.stack(found).mean()) * SIDE**2 / 9


@pytest.mark.parametrize("refined", [False, True], ids=["plain", "refined"])
def test_attention_finds_the_planted_cells_within_seconds(refined: bool) -> None:
    torch.manual_seed(0)
    assert train(refined, seed=0, epochs=8) > 15
