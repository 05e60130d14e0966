"""Draw a few grid cells from an attention distribution, with the weights that keep estimates honest.

Every sampler answers `Draws`: the cells S to read and weights w. Where the sampler is marked `unbiased`,
E[w_i 1{i in S}] = 1 for every cell that has mass, so that sum_S w_i a_i f_i estimates sum_i a_i f_i, whichever
attention `a` it is used with: the weights belong to the distribution that made the draw.

    draw.py         one slide or a batch of them -> Draws; the samplers of the catalogue; what is refused
    rules.py        the rule of each sampler
    draws.py        Draws, pooling of several, smoothing of attention
    replacement.py  multinomial (the paper's scheme with replacement)
    gumbel.py       one by one without replacement: Des Raj's weights, Kool's thresholds
    unordered.py    the same draw with its order averaged out: Murthy's weights
    priority.py     priority sampling (Duffield)
    systematic.py   the default
    nested.py       regions first, then cells inside them
    mass.py         sums of probabilities in log space
    growing.py      draws of more and more cells, each within the next
    jackknife.py    a draw dealt out to rounds, and the standard error of the answer
    unseen.py       what cells could change that a draw missed
    seeds.py        generators that depend on a seed and on names alone

All arithmetic is in float64 and in log space: attention collapses within a few epochs, and then probabilities
underflow to 0 long before their logarithms lose anything. Arrays may have leading batch dimensions; a cell of
log-probability -inf is never drawn, so that slides of different K are padded with it. The random part of every
sampler is apart from the rest (`systematic_at`, `des_raj`, ... are pure functions), so that tests can
enumerate all outcomes.
"""

from wsi_ats.sampling.draw import SAMPLERS, Sampler, draw, draw_many, find_sampler
from wsi_ats.sampling.draws import Draws, every_cell, normalised, pool, smooth, uniform_attention
from wsi_ats.sampling.gumbel import des_raj, threshold_at
from wsi_ats.sampling.nested import draw_nested, opened
from wsi_ats.sampling.priority import priority_at
from wsi_ats.sampling.replacement import multinomial_at
from wsi_ats.sampling.seeds import generator_for
from wsi_ats.sampling.systematic import log_inclusion, systematic_at
from wsi_ats.sampling.unordered import murthy

__all__ = [
    "SAMPLERS",
    "Draws",
    "Sampler",
    "des_raj",
    "draw",
    "draw_many",
    "draw_nested",
    "every_cell",
    "find_sampler",
    "generator_for",
    "log_inclusion",
    "multinomial_at",
    "murthy",
    "normalised",
    "opened",
    "pool",
    "priority_at",
    "smooth",
    "systematic_at",
    "threshold_at",
    "uniform_attention",
]
