"""Where batches come from: made anew in every epoch, or made once and kept on the device that learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from paper.pictures import Batch, Picture, Pictures, Scale, squares_of, views_of
from torch.utils.data import DataLoader


class Batches(Protocol):
    """Pictures in batches, on the device that learns."""

    def __len__(self) -> int: ...

    def of(self, indices: Sequence[int], size: int) -> Iterator[Batch]:
        """The pictures of these indices, `size` at a time."""
        ...


class Made:
    """Pictures that are made, or read, when it is their turn, by `workers` processes or by this one."""

    def __init__(self, pictures: Pictures, scale: Scale, device: torch.device, workers: int) -> None:
        self.pictures, self.scale, self.device, self.workers = pictures, scale, device, workers

    def __len__(self) -> int:
        return len(self.pictures)

    def of(self, indices: Sequence[int], size: int) -> Iterator[Batch]:
        loader = DataLoader(self.pictures, size, sampler=indices, collate_fn=list, num_workers=self.workers)
        return map(self._batch, loader)

    def _batch(self, pictures: list[Picture]) -> Batch:
        m = self.scale.margin
        shape = (len(pictures), *self.scale.canvas, self.pictures.channels)
        pixels = torch.full(shape, self.pictures.background, dtype=torch.uint8, device=self.device)
        pixels[:, m:-m, m:-m] = torch.from_numpy(np.stack([p.pixels for p in pictures])).to(self.device)
        squares = squares_of(pictures)
        return Batch(
            pixels,
            views_of(pixels, self.scale),
            torch.tensor([p.label for p in pictures], device=self.device),
            None if squares is None else squares.to(self.device),
            pictures[0].square,
        )


class Kept:
    """Pictures that are mostly background, made once: what is not background stays on the device.

    A picture of 1500 x 1500 px with its noise takes some 25 kB so, and painting it there a few microseconds; made
    anew in every epoch, it would take a core 1.5 ms.
    """

    def __init__(self, pictures: Pictures, scale: Scale, device: torch.device) -> None:
        self.scale, self.background, self.channels = scale, pictures.background, pictures.channels
        made = [self._sparse(pictures[i]) for i in range(len(pictures))]
        most = max(len(places) for places, _, _ in made)
        places = np.zeros((len(made), most), np.int32)
        values = np.full((len(made), most), pictures.background, np.uint8)
        for row, (place, value, _) in enumerate(made):
            places[row, : len(place)], values[row, : len(place)] = place, value
        self.places, self.values = torch.from_numpy(places).to(device), torch.from_numpy(values).to(device)
        rest = [picture for _, _, picture in made]
        self.labels = torch.tensor([p.label for p in rest], device=device)
        squares = squares_of(rest)
        self.squares = None if squares is None else squares.to(device)
        self.square = rest[0].square

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, indices: Sequence[int], size: int) -> Iterator[Batch]:
        everyone = torch.tensor(list(indices), device=self.labels.device)
        return map(self._batch, everyone.split(size))

    def _batch(self, which: torch.Tensor) -> Batch:
        height, width = self.scale.canvas
        pixels = self.values.new_full((len(which), height * width * self.channels), self.background)
        pixels.scatter_(1, self.places[which].long(), self.values[which])
        pixels = pixels.view(len(which), height, width, self.channels)
        squares = None if self.squares is None else self.squares[which]
        return Batch(pixels, views_of(pixels, self.scale), self.labels[which], squares, self.square)

    def _sparse(self, picture: Picture) -> tuple[np.ndarray, np.ndarray, Picture]:
        """Places on the flat canvas and values of what is not background, and the picture without its pixels.

        Rows that are shorter than others are filled up with place 0: a corner of the margin, which is background.
        """
        flat = np.flatnonzero(picture.pixels != self.background)
        y, along = np.divmod(flat, self.scale.width * self.channels)
        m, (_, width) = self.scale.margin, self.scale.canvas
        places = ((y + m) * width + m) * self.channels + along
        values = picture.pixels.reshape(-1)[flat]
        return places, values, replace(picture, pixels=np.empty((0, 0, self.channels), np.uint8))
