"""How much noise two draws in a row add to one, by the number of regions that are opened.

    python benchmarks/regions.py                 # about 20 s of one core

A field of 112 x 112 cells in 196 regions of 8 x 8, features (D = 16, unit vectors) that vary smoothly with noise on
top, attention from nearly even to concentrated, 32 tiles, the default sampler. The figure is the mean squared error
of Phi_hat over 100 draws, as a multiple of that of one draw over the whole field. "together": the cells of all drawn
regions in one draw, in proportion to their shares (`sampling.draw_nested`); "each": as many cells in every region.
Results: benchmarks/results/regions.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from wsi_ats.geometry import Grid
from wsi_ats.sampling import Draws, draw, draw_nested

RESULTS = Path(__file__).parent / "results"
ACROSS, SIDE, DIM, TILES = 14, 8, 16, 32
CELLS = ACROSS * SIDE
OPENED = (4, 8, 16, 32)
SPREADS = (0.5, 2.0, 4.0)
FINE, COARSE = Grid(CELLS, CELLS, (1, 1)), Grid(ACROSS, ACROSS, (SIDE, SIDE))
ROW, COL = np.divmod(np.arange(CELLS**2), CELLS)
OWNERS = torch.from_numpy(ROW // SIDE * ACROSS + COL // SIDE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS / "regions")
    given = parser.parse_args()
    runs = [run for spread in SPREADS for run in compare(spread, given.draws)]
    given.out.parent.mkdir(exist_ok=True)
    data = {"draws": given.draws, "tiles": TILES, "torch": torch.__version__, "runs": runs}
    given.out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    given.out.with_suffix(".md").write_text(table(runs) + "\n")


def compare(spread: float, draws: int) -> list[dict]:
    """Errors of one attention."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    features = torch.from_numpy(
        np.stack([field(rng, 6) for _ in range(DIM)], 1) + 0.5 * rng.normal(size=(CELLS**2, DIM))
    )
    features = torch.nn.functional.normalize(features, dim=1)
    log_p = torch.log_softmax(torch.from_numpy(spread * (field(rng, 4) + 0.3 * rng.normal(size=CELLS**2))), 0)
    log_a = torch.stack([log_p[region == OWNERS].logsumexp(0) for region in range(ACROSS**2)])
    exact = log_p.exp() @ features

    def error(estimate: Callable[[], torch.Tensor]) -> float:
        return float(np.mean([float(((estimate() - exact) ** 2).sum()) for _ in range(draws)]))

    def regions(n: int) -> Draws:
        return draw(log_a, n, generator=generator, order=along(COARSE, np.arange(ACROSS**2)))

    def one_draw() -> torch.Tensor:
        d = draw(log_p, TILES, generator=generator, order=along(FINE, np.arange(CELLS**2)))
        return (d.log_weights + log_p[d.cells]).exp() @ features[d.cells]

    def together(n: int) -> torch.Tensor:
        drawn = regions(n)
        known = torch.isin(OWNERS, drawn.cells).nonzero()[:, 0]
        order = along(FINE, known.numpy())
        d = draw_nested(log_p[known], OWNERS[known], drawn, TILES, generator=generator, order=order)
        return (d.log_weights + log_p[known][d.cells]).exp() @ features[known[d.cells]]

    def each(n: int) -> torch.Tensor:
        phi, drawn = torch.zeros(DIM, dtype=torch.float64), regions(n)
        for region, log_w in zip(drawn.cells, drawn.log_weights, strict=True):
            mine = (region == OWNERS).nonzero()[:, 0]
            inside = torch.log_softmax(log_p[mine], 0)
            d = draw(inside, TILES // n, generator=generator, order=along(FINE, mine.numpy()))
            phi += (d.log_weights + log_w + log_p[mine][d.cells]).exp() @ features[mine[d.cells]]
        return phi

    base = error(one_draw)
    heaviest = float(log_p.exp().topk(10).values.sum())
    return [
        {
            "spread": spread,
            "mass_of_10": heaviest,
            "regions": n,
            "one_draw": base,
            "together": error(lambda n=n: together(n)),
            "each": error(lambda n=n: each(n)),
        }
        for n in OPENED
    ]


def field(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Noise of unit variance, smooth over `sigma` cells, row by row."""
    smooth = gaussian_filter(rng.normal(size=(CELLS, CELLS)), sigma, mode="wrap")
    return (smooth / smooth.std()).ravel()


def along(grid: Grid, cells: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(grid.hilbert_order(cells))


def table(runs: list[dict]) -> str:
    lines = ["| mass of the 10 heaviest cells | regions | together | each |", "|---|---|---|---|"]
    lines += [
        f"| {r['mass_of_10']:.2f} | {r['regions']} | {r['together'] / r['one_draw']:.2f} "
        f"| {r['each'] / r['one_draw']:.2f} |"
        for r in runs
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
