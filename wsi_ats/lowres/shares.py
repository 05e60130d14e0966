"""Shares of a view: how much of it is tissue, glass, pen, black and blank, and what is to be said of that."""

from __future__ import annotations

from dataclasses import dataclass, fields

from wsi_ats.errors import NoTissueError
from wsi_ats.lowres.light import Light, Rgb

PEN_NOTED = 1e-4
"""Share of pen from which a note says so."""

MOST_PEN = 0.5
"""Share of pen, black aside, that none has: what would be more is glass or tissue whose colours are taken for ink."""

PEN_OR_TINT = 0.2
"""Share of pen, black aside, from which a note asks whether it is tinted glass, where no glass is seen."""

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


def notes_of(shares: ViewShares, light: Light) -> tuple[str, ...]:
    """Clauses on what may shift an answer: pen, black, the light, and pen that may be tinted glass."""
    notes = [*shares.notes, *light.notes]
    if light.inky is not None and shares.pen > PEN_OR_TINT * (1 - shares.black):
        notes.append(
            f"nothing on the view is taken for glass: {_may_be_tinted(light.inky)}, and count as pen"
        )
    return tuple(notes)


def refuse_pen_everywhere(name: str, shares: ViewShares, light: Light) -> None:
    """Raises NoTissueError where so much of slide `name` counts as pen that what is left cannot be trusted."""
    if not shares.is_pen_everywhere:
        return
    what = "tissue cannot be told from pen"
    remedy = "look at the slide: where there is no pen on it, set tissue.pen=false; else scan it again"
    if light.inky is not None:
        what = f"no glass is found, and {_may_be_tinted(light.inky)}, or pen"
        remedy = "look at the slide: correct its white balance, or scan it again"
    raise NoTissueError(
        f"slide {name!r}: {what}; the view would be {shares}, and no pen covers more than {MOST_PEN:.0%} of what was "
        "scanned",
        remedy,
    )


def _may_be_tinted(even: Rgb) -> str:
    return "its large even parts (RGB {}, {}, {}) may be glass in light of a strong tint".format(*even)


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
