"""Sums over the processes that train together: of tensors with their gradients, and of gradients before a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

AddUp = Callable[[Tensor], object]
"""Adds up the tensors of all processes in place."""


class Summed(torch.autograd.Function):
    """y = sum over processes of x. The loss is the sum of what each process has of it, and y is in all of these: the
    gradient of x is the sum over processes of the gradients of y."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, add_up: AddUp) -> Tensor:
        """The sum."""
        ctx.add_up = add_up
        total = tensor.clone()
        add_up(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The sum of the gradients."""
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        ctx.add_up(total)
        return total, None


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter], add_up: AddUp) -> None:
    """Add up the gradients of all processes, in one exchange; a parameter that has one in none of them has none."""
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    mine = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    there = torch.tensor([p.grad is not None for p in learned]).to(mine[0])
    flat = torch.cat([there, *(gradient.flatten() for gradient in mine)])
    add_up(flat)
    there, *parts = torch.split(flat, [len(learned), *(p.numel() for p in learned)])
    for parameter, part, known in zip(learned, parts, there.tolist(), strict=True):
        parameter.grad = part.view_as(parameter).clone() if known else None
