"""How far one draw of N cells is from the exact summary: every sampler, and ways to do better than the default.

    python benchmarks/estimators.py [--model MODEL --slide SLIDE ...]

On a fixed field (32 x 32 cells, smooth features of unit length) at four concentrations of attention, and on the
attention and the features of a trained model, where one is given. MSE of Phi_hat / relative MSE of the gradient of
v . Phi to the logits, mean over random v. Minutes on one core. Results go to benchmarks/results/estimators.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from published import published_gradient
from skimage.filters import gaussian

from wsi_ats.geometry import Grid
from wsi_ats.sampling import SAMPLERS, Draws, des_raj, log_inclusion, normalised
from wsi_ats.sampling.gumbel import gumbel_keys

SIDE, DIM, N, DIRECTIONS, AT_ONCE = 32, 16, 10, 8, 500
MASSES = (0.01, 0.10, 0.50, 0.82)


@dataclass(frozen=True)
class Field:
    """What there is to sample: log a (K,), features (K, D), places (K, 2) in cells, a Hilbert order (K,)."""

    name: str
    log_p: torch.Tensor
    features: torch.Tensor
    xy: torch.Tensor
    order: torch.Tensor

    @property
    def phi(self) -> torch.Tensor:
        return self.log_p.exp() @ self.features


Estimate = tuple[torch.Tensor, torch.Tensor]
"""Phi_hat (R, D) and the gradients (R, V, K) of v . Phi_hat to the logits."""
Method = Callable[[Field, torch.Tensor, int, torch.Generator], Estimate]


# -- fields


def smooth_noise(generator: torch.Generator, width: float, channels: int) -> np.ndarray:
    noise = torch.randn(SIDE, SIDE, channels, generator=generator, dtype=torch.float64).numpy()
    maps = np.stack([gaussian(noise[..., c], width, mode="wrap") for c in range(channels)], -1)
    return maps.reshape(SIDE * SIDE, channels)


def field(mass: float, seed: int = 0) -> Field:
    """Features smooth over about 3 cells, of unit length; logits scaled until the 10 heaviest cells hold `mass`."""
    generator = torch.Generator().manual_seed(seed)
    features = smooth_noise(generator, 2.5, DIM)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    logits = torch.from_numpy(smooth_noise(generator, 1.0, 1)[:, 0])
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        heavy = torch.softmax(middle * logits, 0).topk(10).values.sum()
        low, high = (middle, high) if float(heavy) < mass else (low, middle)
    grid = Grid(cols=SIDE, rows=SIDE, cell=(1.0, 1.0))
    cells = np.arange(SIDE * SIDE)
    return Field(
        f"{mass:.2f}",
        torch.log_softmax(low * logits, 0),
        torch.from_numpy(features),
        torch.from_numpy(grid.centres(cells)),
        torch.from_numpy(grid.hilbert_order(cells)),
    )


def field_of_model(model_folder: Path, path: Path) -> Field:
    """Attention and features of every tissue cell of a slide, as a trained model has them."""
    from wsi_ats.embed import TileVectors
    from wsi_ats.lowres.prepare import prepare
    from wsi_ats.model_folder import load_model
    from wsi_ats.slides import open_slide

    model = load_model(model_folder)
    with open_slide(path) as slide, torch.inference_mode():
        prepared = prepare(slide, model.config, keep_open=True)
        every = model.attend(prepared).all()
        log_p, vectors = every.log_p.double(), TileVectors(model.embed)
        vectors.read([every])
        features = vectors.of(every)
    centres = prepared.view.grid.centres(prepared.tissue) / np.asarray(prepared.view.grid.cell)
    heavy = float(log_p.exp().topk(10).values.sum())
    return Field(
        f"{path.stem} ({len(log_p)} cells, {heavy:.2f})",
        log_p.clone() - log_p.logsumexp(0),
        features.double().clone(),
        torch.from_numpy(centres),
        torch.from_numpy(prepared.order),
    )


# -- estimates, with their gradients written out


def estimate(f: Field, v: torch.Tensor, draws: Draws, centre: bool) -> Estimate:
    """sum_S w a f and, with s_i = w_i a_i v . (f_i - c), the gradient s_i - a_i sum_S s: as autograd has them."""
    share = (draws.log_weights + f.log_p[draws.cells]).exp()
    features = f.features[draws.cells]
    phi = torch.einsum("rn,rnd->rd", share, features)
    if centre:
        features = features - (phi / share.sum(-1, keepdim=True))[:, None]
    return phi, to_logits(f, draws.cells, torch.einsum("rn,rnd,vd->rvn", share, features, v))


def to_logits(f: Field, cells: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """(R, V, K): a_i dPhi/da_i, which is `s` on the drawn cells and 0 elsewhere, less a_i times its sum."""
    dense = -s.sum(-1, keepdim=True) * f.log_p.exp()
    return dense.scatter_add(-1, cells[:, None].expand_as(s), s)


def by_rule(
    f: Field,
    v: torch.Tensor,
    runs: int,
    generator: torch.Generator,
    *,
    sampler: str,
    order: Callable[[Field], torch.Tensor] | None = None,
    centre: bool = False,
) -> Estimate:
    draws = drawn(f, runs, generator, sampler, f.order if order is None else order(f))
    return estimate(f, v, draws, centre)


def drawn(f: Field, runs: int, generator: torch.Generator, sampler: str, order: torch.Tensor) -> Draws:
    chosen, k = SAMPLERS[sampler], len(f.log_p)
    u = torch.rand(runs, max(1, chosen.numbers(k, N)), dtype=torch.float64, generator=generator)
    return chosen.rule(f.log_p.expand(runs, -1), N, u, order.expand(runs, -1))


def published(f: Field, v: torch.Tensor, runs: int, generator: torch.Generator) -> Estimate:
    """The gradient of the code published with the paper (`published_gradient`)."""
    log_p = f.log_p.expand(runs, -1)
    u = torch.rand(runs, len(f.log_p), dtype=torch.float64, generator=generator)
    cells = gumbel_keys(log_p, u).topk(N).indices
    phi, _ = estimate(f, v, des_raj(log_p, cells), False)
    s = published_gradient(log_p, cells, f.features[cells] @ v.T)
    return phi, to_logits(f, cells, s.transpose(1, 2))


# -- ways to do better that were tried


def shuffled(f: Field) -> torch.Tensor:
    return torch.randperm(len(f.log_p), generator=torch.Generator().manual_seed(1))


def jittered(
    f: Field, v: torch.Tensor, runs: int, generator: torch.Generator, centre: bool = False
) -> Estimate:
    """One independent point in every stretch of length 1, instead of one start for all; a cell may be met twice."""
    log_pi = log_inclusion(f.log_p, N)
    sure = (log_pi == 0).nonzero()[:, 0]
    path = f.order[log_pi[f.order] < 0]
    left = N - len(sure)
    u = torch.rand(runs, left, dtype=torch.float64, generator=generator) + torch.arange(left)
    at = torch.searchsorted(log_pi[path].exp().cumsum(0), u, right=True).clamp(max=len(path) - 1)
    cells = torch.cat([sure.expand(runs, -1), path[at]], 1)  # a cell met twice counts twice
    return estimate(f, v, Draws(cells, -log_pi[cells]), centre)


def pivotal(
    f: Field, v: torch.Tensor, runs: int, generator: torch.Generator, centre: bool = False
) -> Estimate:
    """Local pivotal method (Grafstrom, Lundstrom, Schelin, Biometrics 2012): near cells fight for inclusion."""
    log_pi = log_inclusion(f.log_p, N)
    k = len(log_pi)
    distance = torch.cdist(f.xy, f.xy).float()
    distance += 1e-3 * torch.rand(k, k, generator=generator)  # ties at random
    distance.fill_diagonal_(math.inf)
    pi = log_pi.exp().repeat(runs, 1)
    open_ = (pi < 1 - 1e-9) & (pi > 1e-300)
    row = torch.arange(runs)
    for _ in range(k):
        busy = open_.sum(1) > 1
        if not bool(busy.any()):
            break
        first = torch.where(open_, torch.rand(runs, k, generator=generator), -1.0).argmax(1)
        second = torch.where(open_, distance[first], math.inf).argmin(1)
        a, b = pi[row, first], pi[row, second]
        total, coin = a + b, torch.rand(runs, dtype=torch.float64, generator=generator)
        small = total < 1
        first_wins = coin * torch.where(small, total, 2 - total) < torch.where(small, a, 1 - b)
        winner, loser = torch.where(small, total, 1.0), torch.where(small, 0.0, total - 1)
        new_a, new_b = torch.where(first_wins, winner, loser), torch.where(first_wins, loser, winner)
        pi[row, first] = torch.where(busy, new_a, a)
        pi[row, second] = torch.where(busy, new_b, pi[row, second])
        open_ = (pi < 1 - 1e-9) & (pi > 1e-9)
    cells = pi.topk(N).indices
    return estimate(f, v, Draws(cells, -log_pi[cells]), centre)


def with_control(
    f: Field, v: torch.Tensor, runs: int, generator: torch.Generator, *, blur: float
) -> Estimate:
    """sum_i a_i h_i + sum_S w a (f - h): h predicts f with an error that grows with `blur` (0: f itself)."""
    noise = torch.randn(f.features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    noise *= f.features.pow(2).mean().sqrt()
    h = (1 - blur**2) * f.features + blur * math.sqrt(
        1 - blur**2
    ) * noise  # best predictor of R^2 = 1 - blur^2
    rest = Field(f.name, f.log_p, f.features - h, f.xy, f.order)
    known = Field(f.name, f.log_p, h, f.xy, f.order)
    phi, gradient = by_rule(rest, v, runs, generator, sampler="systematic", centre=True)
    exact = known.log_p.exp() * ((h - known.phi) @ v.T).T
    return phi + known.phi, gradient + exact


def by_nearest(f: Field, v: torch.Tensor, runs: int, generator: torch.Generator) -> Estimate:
    """Every cell takes the feature of the nearest drawn cell: biased, and good where features are smooth."""
    draws = drawn(f, runs, generator, "systematic", f.order)
    nearest = torch.cdist(f.xy, f.xy)[draws.cells].argmin(1)
    a, features = f.log_p.exp(), f.features[draws.cells]
    mass = torch.zeros(draws.cells.shape, dtype=a.dtype).scatter_add(1, nearest, a.expand(runs, -1))
    phi = torch.einsum("rn,rnd->rd", mass, features)
    h = torch.einsum("rnd,vd->rvn", features - phi[:, None], v)
    return phi, a * h.gather(-1, nearest[:, None].expand(-1, len(v), -1))


def regression(f: Field, v: torch.Tensor, runs: int, generator: torch.Generator) -> Estimate:
    """Calibrated weights (Deville and Sarndal, 1992): sum_S w a x = sum_i a_i x_i for x = (1, column, row)."""
    draws = drawn(f, runs, generator, "systematic", f.order)
    a, share = f.log_p.exp(), (draws.log_weights + f.log_p[draws.cells]).exp()
    x = torch.cat([torch.ones(len(a), 1, dtype=a.dtype), (f.xy - f.xy.mean(0)) / f.xy.std(0)], 1)
    xs = x[draws.cells]
    gram = torch.einsum("rn,rni,rnj->rij", share, xs, xs) + 1e-3 * torch.eye(3, dtype=a.dtype)
    lack = a @ x - torch.einsum("rn,rni->ri", share, xs)
    factor = 1 + torch.einsum("rni,ri->rn", xs, torch.linalg.solve(gram, lack))
    weights = Draws(draws.cells, draws.log_weights + factor.clamp(min=1e-3).log())
    return estimate(f, v, normalised(f.log_p.expand(runs, -1), weights), True)


METHODS: dict[str, Method] = {
    **{name: partial(by_rule, sampler=name) for name in SAMPLERS if name not in ("systematic", "top", "all")},
    "systematic, random order": partial(by_rule, sampler="systematic", order=shuffled),
    "systematic, Hilbert order (default)": partial(by_rule, sampler="systematic"),
    "reference code": published,
}
CENTRED: dict[str, Method] = {
    f"{name}, centred": partial(by_rule, sampler=sampler, centre=True)
    for name, sampler in [
        ("multinomial", "multinomial"),
        ("gumbel", "gumbel"),
        ("unordered", "unordered"),
        ("priority", "priority"),
        ("systematic, Hilbert order (default)", "systematic"),
    ]
}
TRIED: dict[str, Method] = {
    "jittered, centred": partial(jittered, centre=True),
    "local pivotal, centred": partial(pivotal, centre=True),
    "calibrated to column and row": regression,
    "nearest drawn cell (biased)": by_nearest,
    "control variate of R^2 .25": partial(with_control, blur=math.sqrt(0.75)),
    "control variate of R^2 .50": partial(with_control, blur=math.sqrt(0.5)),
    "control variate of R^2 .75": partial(with_control, blur=0.5),
}
ALL = {**METHODS, **CENTRED, **TRIED}


# -- measuring


def measure(method: Method, f: Field, runs: int) -> dict[str, float]:
    """Figures of `runs` draws; `bias` is the length of the mean gradient's error over that of the gradient."""
    generator = torch.Generator().manual_seed(5)
    v = torch.randn(DIRECTIONS, f.features.shape[1], dtype=torch.float64, generator=generator)
    exact = f.log_p.exp() * ((f.features - f.phi) @ v.T).T
    norm = exact.pow(2).sum(-1)
    mse, parts, mean = [], [], torch.zeros_like(exact)
    done = 0
    while done < runs:
        phi, gradient = method(f, v, min(AT_ONCE, runs - done), generator)
        mse.append((phi - f.phi).pow(2).sum(-1))
        parts.append(((gradient - exact).pow(2).sum(-1) / norm).mean(-1))
        mean += gradient.sum(0)
        done += len(phi)
    mean /= done
    errors, relative = torch.cat(mse), torch.cat(parts)
    cosine = (mean * exact).sum(-1) / (mean.pow(2).sum(-1) * norm).sqrt()
    return {
        "mse": float(errors.mean()),
        "mse_stderr": float(errors.std() / math.sqrt(done)),
        "gradient": float(relative.mean()),
        "gradient_stderr": float(relative.std() / math.sqrt(done)),
        "cosine_of_mean_gradient": float(cosine.mean()),
        "runs": done,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder of a trained model")
    parser.add_argument("--slide", type=Path, nargs="*", default=[], help="slides to look at with it")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--methods", nargs="*", default=list(ALL))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "estimators.json")
    arguments = parser.parse_args()
    fields = [field(mass) for mass in MASSES]
    fields += [field_of_model(arguments.model, slide) for slide in arguments.slide]
    table = {name: {} for name in arguments.methods}
    for f in fields:
        for name in arguments.methods:
            runs = min(arguments.runs, 500) if "pivotal" in name else arguments.runs
            table[name][f.name] = measure(ALL[name], f, runs)
            print(f.name, name, json.dumps(table[name][f.name]), flush=True)
    save(table, [f.name for f in fields], arguments.results)


def save(table: dict[str, dict[str, dict[str, float]]], columns: list[str], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    path.write_text(json.dumps({"versions": facts, "n": N, "methods": table}, indent=1) + "\n")
    lines = ["| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in table.items():
        cells = [f"{row[c]['mse']:.4f} / {row[c]['gradient']:.3g}" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
