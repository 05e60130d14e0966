"""`PreparedPatient`, the prepared slides of a patient as one: their cells are counted through, slide after slide.

Attention over a patient is one distribution over the tissue of all slides, tiles are drawn from that, and only reading
them asks which slide a cell is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from wsi_ats.lowres.prepare import PreparedSlide


@dataclass(frozen=True, eq=False)
class PreparedPatient:
    """The prepared slides of a patient. Cells are flat indices into their grids laid end to end."""

    slides: tuple[PreparedSlide, ...]
    """The S slides, in an order that depends on them alone, not on how they were given."""
    tissue: Int64[np.ndarray, " K"]
    """The K tissue cells of all slides; draws index into this."""
    order: Int64[np.ndarray, " K"]
    """Permutation of 0..K-1, slide after slide, along a Hilbert curve of each."""

    @classmethod
    def of(cls, slides: Sequence[PreparedSlide]) -> PreparedPatient:
        """The patient of one slide or several. Which comes first makes no difference."""
        ordered = sorted(slides, key=lambda slide: (slide.name, slide.slide_size, slide.tissue.tobytes()))
        none = np.empty(0, np.int64)
        patient = cls(tuple(ordered), none, none)
        pairs = zip(patient.first_cells, ordered, strict=True)
        return patient.with_cells(np.concatenate([first + slide.tissue for first, slide in pairs]))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the slides."""
        return tuple(slide.name for slide in self.slides)

    @cached_property
    def first_cells(self) -> Int64[np.ndarray, " S"]:
        """The first cell of each slide's grid."""
        sizes = [len(slide.view.grid) for slide in self.slides]
        return np.cumsum([0, *sizes[:-1]], dtype=np.int64)

    def locate(
        self, cells: Int64[np.ndarray, " N"]
    ) -> tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]:
        """Which of the `slides` each cell is of, and its flat index in the grid of that one."""
        owners = np.searchsorted(self.first_cells, cells, side="right") - 1
        return owners.astype(np.int64), cells - self.first_cells[owners]

    def with_cells(self, cells: Int64[np.ndarray, " K"]) -> PreparedPatient:
        """The patient with these tissue cells."""
        owners, local = self.locate(cells)
        parts = [np.flatnonzero(owners == number) for number in range(len(self.slides))]
        order = [
            mine[slide.view.grid.hilbert_order(local[mine])]
            for slide, mine in zip(self.slides, parts, strict=True)
        ]
        return replace(self, tissue=cells, order=np.concatenate(order))

    @property
    def fine(self) -> PreparedPatient:
        """With two levels of attention, the patient on the grids of the fine views, of which no cell is known yet."""
        none = np.empty(0, np.int64)
        return PreparedPatient(tuple(slide.fine for slide in self.slides), none, none)

    @property
    def tones(self) -> Float64[np.ndarray, " T"]:
        """Tones of the views: the mean of the slides'."""
        return np.asarray(np.mean([slide.tones for slide in self.slides], axis=0), np.float64)


Prepared = PreparedSlide | PreparedPatient
"""What the model attends to: a slide, or all slides of a patient."""


def prepared_patient(slides: Sequence[PreparedSlide]) -> Prepared:
    """The prepared slides as one; a single one is itself."""
    return slides[0] if len(slides) == 1 else PreparedPatient.of(slides)
