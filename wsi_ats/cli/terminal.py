"""Output of commands on a terminal, and the status they end with."""

from __future__ import annotations

import errno
import functools
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from wsi_ats.errors import SlideError, WsiAtsError
from wsi_ats.output import OutputError
from wsi_ats.shown import shown
from wsi_ats.train.processes import here

if TYPE_CHECKING:  # these take a while to import
    from wsi_ats.batch.run import Summary
    from wsi_ats.prediction import Prediction
    from wsi_ats.slides import Slide
    from wsi_ats.statistics.novelty import Unlike

console = Console(highlight=False, soft_wrap=True, quiet=not here().is_first)
"""Console for results: standard output. Of several processes that train together, the first one speaks."""
errors = Console(stderr=True, highlight=False, soft_wrap=True)
"""Console for progress and complaints: standard error."""


def say(line: str) -> None:
    """Print a line as it is, to standard output."""
    console.print(_lines(line), markup=False)


def complain(line: str) -> None:
    """Print a line as it is, to standard error; of several processes the first does."""
    if here().is_first:
        errors.print(_lines(line), markup=False)


def tell(error: WsiAtsError) -> None:
    """Print an error; of several processes the one that met it does."""
    me = here()
    if error.met_by in (None, me.number):
        which = "" if me.is_first else f"process {me.number + 1} of {me.count}: "
        errors.print(f"{which}error: {error}", style="red", markup=False)


def _lines(text: str) -> str:
    """The text, whose own line ends count; what else a terminal would obey, or must not know, is as `shown` has it."""
    return "\n".join(shown(line) for line in text.split("\n"))


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the system that are no fault of a command, whatever it was writing."""


class Terminated(KeyboardInterrupt):
    """The process got SIGTERM, which is taken as Ctrl-C is."""


def with_status(function: Callable[..., None], resumable: bool) -> Callable[..., None]:
    """`function`, whose errors meant for the user become a message and an exit status (see `wsi_ats.cli.main`)."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with _terminable():
                function(*args, **kwargs)
        except WsiAtsError as error:
            tell(error)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            tell(OutputError.of(error.filename or "a file", error.errno))
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:
            how, status = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
            complain(how + (": the same command, without --overwrite, goes on" if resumable else ""))
            raise typer.Exit(status) from None

    return wrapped


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM, once: what is then written must not be interrupted again."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # Python allows signals nowhere else
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def describe(prediction: Prediction) -> str:
    """A prediction in one line: each task's answer, with standard errors where they are known, and what was read."""
    from wsi_ats.tasks.answer import describe as in_words

    read = f"{prediction.tiles_read} of {len(prediction.tissue)} tissue tiles read"
    notes = "".join(f"\n  note: {note}" for note in prediction.notes)
    return f"{shown(prediction.slide)}: {in_words(prediction.results)}; {read}{notes}"


SURE = 0.01
"""Chance below which a batch with so many flagged slides is said to be unlike the training slides."""
NOTES = 10
"""Number of slides whose notes are printed; all are in predictions.csv."""


def batch_in_words(slides: Sequence[Unlike]) -> str:
    """How many slides of a batch are unlike the training slides, and how odd that is; empty where none is."""
    from wsi_ats.statistics.novelty import batch_p_value, expected_rate

    flagged = sum(bool(slide.parts) for slide in slides)
    if not flagged:
        return ""
    limit = slides[0].rank, slides[0].slides
    chance = batch_p_value(flagged, len(slides), *limit)
    expected = expected_rate(*limit) * len(slides)
    whole = "; the batch as a whole is unlike the training slides" if chance < SURE else ""
    return (
        f"{flagged} of {len(slides)} slides are unlike the training slides (column unlike), where {expected:.1f} would "
        f"be expected of slides like those (p = {chance:.2g}){whole}"
    )


def show_summary(summary: Summary) -> None:
    """Print how a batch ended: where the time went, how many slides, what failed and what to do about it."""
    progress = summary.progress
    if summary.stages:
        stages = ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in summary.stages.items())
        say(f"seconds a {summary.by}, by stage: {stages}")
    say(
        f"{progress.done} of {progress.total} {summary.by}s done ({progress.known} of them before), "
        f"{progress.failed} failed: {summary.out / 'predictions.csv'}"
    )
    if progress.bad_tiles:
        complain(f"{progress.bad_tiles} damaged tile(s) were read as background: see the column bad_tiles")
    for slide, notes in list(summary.notes.items())[:NOTES]:
        complain(f"note: {shown(slide)}: {'; '.join(notes)}")
    if len(summary.notes) > NOTES:
        complain(f"{len(summary.notes) - NOTES} more {summary.by}s have notes: see the column notes")
    if words := batch_in_words(summary.unlike):
        complain(words)
    for failure in summary.failures:
        complain(f"failed: {shown(failure.slide)}: {failure.error}")
        if failure.remedy:
            complain(f"  remedy: {failure.remedy}")


COARSE = 4096
"""Side in px of a level that is read in a second or two: larger coarsest levels are told of."""


def slide_facts(slide: Slide) -> dict[str, Any]:
    """Facts of a slide as plain values."""
    from wsi_ats.slides.scale import magnification_of

    shares, notes = _view_of(slide)
    return {
        "slide": slide.name,
        "backend": slide.backend,
        "backend reason": slide.backend_reason,
        "vendor": slide.properties.get("openslide.vendor", "unknown"),
        "size": list(slide.size),
        "mpp": slide.mpp_xy,
        "mpp source": slide.mpp_source,
        "notes": [*slide.notes, *notes],
        "view shares": shares,
        "magnification": magnification_of(slide.properties)[0],
        "levels": [
            {
                "level": level.index,
                "size": [level.size.width, level.size.height],
                "downsample": [round(d, 4) for d in level.downsample],
            }
            for level in slide.levels
        ],
        "hint": _hint(slide),
        "bounds": slide.bounds,
        "background": "#{:02x}{:02x}{:02x}".format(*slide.background),
        "icc profile": slide.icc_profile is not None,
        "associated images": {name: _picture_size(slide, name) for name in sorted(slide.associated_images)},
    }


def _view_of(slide: Slide) -> tuple[dict[str, float] | str, tuple[str, ...]]:
    """Shares of tissue, glass and all else in a coarse view, or why they are not known; and notes on them."""
    from wsi_ats.lowres.survey import survey

    try:
        found = survey(slide)
    except SlideError as error:
        return error.message, ()
    if found is None:
        return "not looked at: no level is small enough for a quick look", ()
    return {name: round(share, 4) for name, share in found.shares.as_dict().items()}, found.notes


def _hint(slide: Slide) -> str:
    """What would make the slide quicker to look at."""
    size = slide.levels[-1].size
    if max(size.width, size.height) <= COARSE:
        return ""
    return (
        f"the coarsest level has {size.width} x {size.height} px, and every view of the slide reads all of it: "
        "`wsi-ats convert` adds levels down to a thumbnail"
    )


def _picture_size(slide: Slide, name: str) -> list[int] | str:
    """(width, height) of an associated image, or why it cannot be read."""
    try:
        height, width, _ = slide.associated_images[name].shape
    except SlideError as error:
        return error.message
    return [width, height]


def show_facts(facts: Mapping[str, Any]) -> None:
    """Print the facts of a slide, for people."""
    say(f"slide: {facts['slide']}")
    say(f"backend: {facts['backend']} ({facts['backend reason'] or 'the only one for it'})")
    say(f"vendor: {facts['vendor']}")
    say("size: {} x {} px".format(*facts["size"]))
    if facts["mpp"] is None:
        say("mpp: unknown; give --mpp where it is needed, it is never guessed")
    else:
        say("mpp: {:g} x {:g} um/px ({})".format(*facts["mpp"], facts["mpp source"]))
    if facts["magnification"] is not None:
        say(f"magnification: {facts['magnification']:g}x, says the slide")
    for level in facts["levels"]:
        (width, height), (x, y) = level["size"], level["downsample"]
        say(f"level {level['level']}: {width} x {height} px, downsample {x:g} x {y:g}")
    if facts["hint"]:
        say(f"  hint: {facts['hint']}")
    if facts["bounds"] is not None:
        say("scanned: {2} x {3} px from ({0}, {1})".format(*facts["bounds"]))
    say(f"background: {facts['background']}; ICC profile: {'yes' if facts['icc profile'] else 'no'}")
    shares = facts["view shares"]
    if not isinstance(shares, str):
        shares = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    say(f"view: {shares}")
    pictures = [
        f"{name} ({found if isinstance(found, str) else '{} x {} px'.format(*found)})"
        for name, found in facts["associated images"].items()
    ]
    say(f"associated images: {', '.join(pictures) or 'none'}")
    for note in facts["notes"]:
        say(f"note: {note}")
    for key, text in facts.get("properties", {}).items():
        say(f"  {key}: {text}")
