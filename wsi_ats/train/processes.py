"""Several processes that train one model together: which of them this one is, and what they exchange.

They are started by `torchrun`, which says so in environment variables, and join when training begins. All of them do
the same; where work is shared out, each does its part and they gather the parts. Only the first one writes and speaks.

An error that one of them meets is told to the others at their next exchange, which raises it there: all then know the
same, and none waits for another one that has given up. Errors are told where values are gathered. So what may fail
(reading slides) is done before that; what fails all the same between two sums ends the process, which others notice.

PyTorch is imported where it is needed: the command line asks early which process it is.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from wsi_ats.errors import ConfigError, WsiAtsError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""Time that an exchange waits for a process at most. One that has ended is noticed at once, and one of the others may
have hours of reading before it."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training, seen from one of them; of one alone, every exchange is what it gives.

    >>> alone = Processes()
    >>> alone.gather("mine"), alone.each(3, lambda i: i * i), alone.of_first(lambda: 7)
    (['mine'], [0, 1, 4], 7)
    """

    number: int = 0
    """Number of this one, from 0."""
    count: int = 1
    """How many there are."""
    on_host: int = 0
    """Number of this one among those of its computer: its GPU."""
    group: Any = None
    """Group of torch.distributed that they exchange in."""

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.number == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order. Raises the `WsiAtsError` that one of them has met."""
        if self.count == 1:
            return [value]
        values, error = self._exchange(value, None)
        if error is not None:
            raise error
        return values

    def agreed(self, error: WsiAtsError) -> WsiAtsError:
        """The error that all processes go on with: one that was met here is told to the others; of several, that of the
        first process counts."""
        if self.count == 1 or error.met_by is not None:
            return error
        try:
            return self._exchange(None, error)[1] or error
        except WsiAtsError:  # nobody is there any more
            return error

    def of_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all."""
        return self.gather(make() if self.is_first else None)[0]  # type: ignore[return-value]

    def each(self, n: int, make: Callable[[int], T]) -> list[T]:
        """What is made of each of 0 ... n - 1, shared out."""
        return self.in_order(self.gather([make(i) for i in self.share(range(n))]))

    def share(self, of: Sequence[T]) -> Sequence[T]:
        """The part of this process: every `count`-th."""
        return of[self.number :: self.count]

    def in_order(self, shares: Sequence[Sequence[T]]) -> list[T]:
        """The shares of all processes in the order of what was shared out.

        >>> two = Processes(count=2)
        >>> two.in_order([["a", "c", "e"], ["b", "d"]])
        ['a', 'b', 'c', 'd', 'e']
        """
        total = sum(map(len, shares))
        return [shares[i % self.count][i // self.count] for i in range(total)]

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors (any shape, the same in all) of all processes, through which gradients flow back to
        each. Every process must ask for it, and go backward through it, in the same order."""
        if self.count == 1:
            return tensor
        from wsi_ats.train.summed import Summed

        out: Tensor = Summed.apply(tensor, self.add_up)  # type: ignore[no-untyped-call]  # torch's
        return out

    @contextmanager
    def among_sums(self) -> Iterator[None]:
        """A block with sums in it. What fails there cannot be told to the others, which wait for a sum: this process
        ends with it, whatever it is about."""
        try:
            yield
        except WsiAtsError as error:
            if self.count == 1 or error.met_by is not None:
                raise
            end = WsiAtsError(error.message, error.remedy)
            end.met_by = self.number
            raise end from error

    def add_up(self, tensor: Tensor) -> None:
        """Add up the tensors of all processes in place."""
        import torch.distributed as dist

        with self._noticing():
            dist.all_reduce(tensor, group=self.group)

    def _exchange(self, value: T, error: WsiAtsError | None) -> tuple[list[T], WsiAtsError | None]:
        """Values of all processes, and the first error that one has met."""
        import torch.distributed as dist

        told: list[Any] = [None] * self.count
        with self._noticing():
            dist.all_gather_object(told, (value, error), group=self.group)
        errors = [(number, error) for number, (_, error) in enumerate(told) if error is not None]
        for number, first in errors[:1]:
            first.met_by = number
            return [], first
        return [value for value, _ in told], None

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """A block in which a process that has ended is told as that."""
        try:
            yield
        except RuntimeError as error:
            lost = WsiAtsError(
                f"another of the {self.count} processes of this training has ended: {str(error).splitlines()[0]}",
                remedy="see what it said; the same command goes on after the last whole epoch",
            )
            lost.met_by = self.number
            raise lost from error


ALONE = Processes()
ONE_BY_ONE = "start it without torchrun, in one process; or train each of its runs by itself with torchrun"
"""Remedy where several trainings are asked for."""


def here() -> Processes:
    """Which process of a training this one is, as `torchrun` says; `ALONE` where it was started in any other way."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ALONE
    number, count, on_host = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    return Processes(number, count, on_host)


def refuse_several(what: str, remedy: str) -> None:
    """Raise `ConfigError` where `what` was started in several processes."""
    me = here()
    if me.count > 1:
        error = ConfigError(f"{what} was started in {me.count} processes by torchrun", remedy)
        error.met_by = 0  # as all find by themselves
        raise error


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this training, joined for the length of the block; they leave it together.

    Raises `ConfigError` where there are more of them than GPUs, and the `WsiAtsError` that any of them ends with.
    """
    me = here()
    if me.count == 1:
        yield me
        return
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
        atexit.register(
            dist.destroy_process_group
        )  # and no sooner: a second one would meet what the first one left
    gpus = torch.cuda.device_count()
    # A group of its own: when one process leaves it, the others notice.
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    me = replace(me, group=dist.new_group(backend=backend, timeout=PATIENCE))
    try:
        if gpus and me.on_host >= gpus:
            raise ConfigError(
                f"there are more processes than GPUs on a computer that has {gpus}",
                remedy=f"--nproc-per-node {gpus}; or hide the GPUs from all (CUDA_VISIBLE_DEVICES=)",
            )
        yield me
        me.gather(None)
    except WsiAtsError as error:
        raise me.agreed(error) from error
    finally:
        dist.destroy_process_group(me.group)
