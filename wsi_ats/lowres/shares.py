"""Shares of a view: how much of it is tissue, glass, pen, black and blank, and what is to be said of that."""

from __future__ import annotations

from dataclasses import dataclass, fields

from wsi_ats.errors import NoTissueError

PEN_NOTED = 1e-4
"""Share of pen from which a note says so."""

MOST_PEN = 0.5
"""Share of pen, black aside, that none has: what would be more is glass or tissue whose colours are taken for ink."""

BLACK_NOTED = 0.05
"""Share of black from which a note says so."""


@dataclass(frozen=True, slots=True)
class ViewShares:
    """Share of each class in the px of a view; they sum to 1."""

    tissue: float = 0.0
    """Stained tissue, its small holes too."""
    glass: float = 0.0
    """All else: glass, dust, what is too pale or too small for tissue."""
    pen: float = 0.0
    """Marker ink, also over tissue."""
    black: float = 0.0
    """No light at all: not scanned, or not transparent."""
    blank: float = 0.0
    """The very colour that the reader fills with: transparent, not scanned, beyond the slide, or glass as white."""

    @property
    def is_pen_everywhere(self) -> bool:
        """Whether more counts as pen than any pen covers."""
        return self.pen > MOST_PEN * (1 - self.black)

    def as_dict(self) -> dict[str, float]:
        """The shares by name."""
        return {part.name: float(getattr(self, part.name)) for part in fields(self)}

    def __str__(self) -> str:
        return ", ".join(f"{share:.1%} {name}" for name, share in self.as_dict().items())

    @property
    def notes(self) -> tuple[str, ...]:
        """Clauses on classes that may have a say in the answer."""
        notes = []
        if self.is_pen_everywhere:
            notes.append(
                f"{_percent(self.pen)} of the view would be pen, more than any pen covers: its colours are unusual"
            )
        elif self.pen >= PEN_NOTED:
            notes.append(f"pen on {_percent(self.pen)} of the view: left out of the tissue")
        if self.black >= BLACK_NOTED:
            notes.append(
                f"{_percent(self.black)} of the view is black: nothing was scanned, or no light came through"
            )
        return tuple(notes)


NOT_KNOWN = ViewShares()
"""Shares of a view that were not counted."""


def refuse_pen_everywhere(name: str, shares: ViewShares) -> None:
    """Raises NoTissueError where so much of slide `name` counts as pen that what is left cannot be trusted."""
    if shares.is_pen_everywhere:
        raise NoTissueError(
            f"slide {name!r}: tissue cannot be told from pen; the view would be {shares}, and no pen covers more than "
            f"{MOST_PEN:.0%} of what was scanned",
            "look at the slide: where there is no pen on it, set tissue.pen=false; else scan it again",
        )


def no_tissue(name: str, shares: ViewShares, is_lit: bool, method: str, settings: str) -> NoTissueError:
    """The error of slide `name`, of which no cell is tissue: what the view shows, and the remedy for that.

    is_lit: whether light comes through the slide anywhere. settings: those that the cells were judged by, in words.
    """
    return NoTissueError(
        f"slide {name!r}: no tissue; the view is {shares} (method={method!r}, {settings})",
        _remedy(shares, is_lit, method),
    )


def _remedy(shares: ViewShares, is_lit: bool, method: str) -> str:
    if shares.blank > 0.99:
        return "look at the slide: all of it is transparent, not scanned or overexposed"
    if not is_lit:
        return (
            "look at the slide: it is dark throughout, scanned with too little light, or as fluorescence is; a "
            "bright-field stain is needed"
        )
    if shares.pen > shares.tissue:
        return "look at the slide: if what counts as pen is tissue, set tissue.pen=false"
    if shares.tissue > 0:
        return "look at the slide: tissue is there, but too little in any cell; lower tissue.min_fraction"
    other = " or tissue.method=optical-density, which keeps pale stains" if method == "saturation" else ""
    return f"look at the slide: a bright-field stain is needed; else lower tissue.min_object{other}"


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.01 else f"{share:.1%}"
