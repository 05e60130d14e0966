"""predictions.csv and failures.csv: always made anew from the slides' folders, so that they cannot disagree
with them.

predictions.csv has one row a slide of the run, and one a row of its manifest, in the order given, so that it can be
joined with the manifest row by row: `status` is done, failed (why: failures.csv) or pending (interrupted before its
turn), and only done slides have numbers. Slides that other runs of the same model and settings left in the output
folder (the tasks of an array job, each with its share of the slides) follow, ordered by id: whoever ends last writes
the table of all.

Numbers are rounded to 6 digits: the same batch gives the same bytes, `seconds` aside, however often it was
interrupted. Texts are shown as `wsi_ats.shown.cell` has them: names of files may be anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsi_ats.atomic import write_atomic
from wsi_ats.batch.claim import acquire, look
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.records import Record, answers
from wsi_ats.batch.store import SlideStore, folder_name, unlike_of
from wsi_ats.batch.twins import note
from wsi_ats.errors import Failure
from wsi_ats.output import writing
from wsi_ats.shown import cell, csv_of_records
from wsi_ats.statistics.novelty import Unlike
from wsi_ats.tasks.answer import TaskSpec, cells_of, columns_of, number_cell

MEASURED = (
    "tiles_read",
    "rounds",
    "bytes_read",
    "bad_tiles",
    "unlike",
    "unlike_score",
    "seconds",
    "status",
    "notes",
)


@dataclass(frozen=True)
class Row:
    """A row of the tables: one slide, with what its folder says of it."""

    item: SlideItem
    status: str
    record: Record


def write_tables(
    out: Path,
    items: Sequence[SlideItem],
    config_hash: str,
    specs: Sequence[TaskSpec],
    settled: Collection[str],
    failures: Mapping[str, Failure],
    waiting: Callable[[str], object] = lambda text: None,
    by: str = "slide",
) -> None:
    """Write both tables, a row a slide or, by patient, a patient; `settled` are the ids of the items that this run
    found or made done or failed, `failures` those of the failed.

    One process at a time: of two that end together the later one must also be the one that has seen more. waiting:
    gets who is waited for. Raises `OutputError` where the tables cannot be written.
    """
    lock = out / ".tables"
    with writing(out):
        while (claim := acquire(lock)) is None:
            found = look(lock)
            if found is not None:
                waiting(f"waiting to write the tables after {found.describe()}")
            time.sleep(0.05)
        with claim:
            own = list(_own_rows(out, items, config_hash, specs, settled, failures, by))
            rows = [*own, *_other_rows(out, own, config_hash, specs, by)]
            write_atomic(out / "predictions.csv", _predictions(rows, specs, by))
            write_atomic(out / "failures.csv", _failures(rows, by))


def _own_rows(
    out: Path,
    items: Iterable[SlideItem],
    config_hash: str,
    specs: Sequence[TaskSpec],
    settled: Collection[str],
    failures: Mapping[str, Failure],
    by: str,
) -> Iterator[Row]:
    for item in items:
        failure = failures.get(item.source)
        if failure is not None:
            # Of what failed it is told also where that could not be written down.
            yield Row(item, "failed", asdict(failure))
        elif item.source in settled:
            found = _row(item, SlideStore(out, item.source, by), config_hash, specs)
            yield found or Row(item, "pending", {})
        else:
            yield Row(item, "pending", {})


def _other_rows(
    out: Path, own: Sequence[Row], config_hash: str, specs: Sequence[TaskSpec], by: str
) -> list[Row]:
    """Slides that other runs left, each file once: under another name it may be one of this run's."""
    folders = {folder_name(row.item.source) for row in own}
    taken = {_file_of(row) for row in own}
    others = (folder for folder in (out / f"{by}s").glob("*") if folder.name not in folders)
    rows = (_row(None, SlideStore.at(folder), config_hash, specs) for folder in others)
    return sorted((row for row in rows if row and _file_of(row) not in taken), key=lambda row: row.item.id)


def _file_of(row: Row) -> tuple[str, object]:
    """Path of a slide and the mpp that it was read with: of two rows that agree in both, one is too many."""
    return str(row.item.path) or row.item.id, row.record.get("mpp_given")


def _row(
    item: SlideItem | None, store: SlideStore, config_hash: str, specs: Sequence[TaskSpec]
) -> Row | None:
    """A slide as its folder has it; an item's own patient and extra columns win over those it was stored
    with."""
    for record, status in ((store.result(), "done"), (store.failure(), "failed")):
        if record is None or record["config_hash"] != config_hash:
            continue
        if status == "done" and not answers(record, specs):
            continue
        path = Path(record["path"]) if record["path"] else ""
        stored = SlideItem(record["slide"], path, None, record["patient"], record["extra"])
        return Row(item or stored, status, record)
    return None


def _predictions(rows: Sequence[Row], specs: Sequence[TaskSpec], by: str) -> bytes:
    answered = columns_of(specs)
    own = [*(("patient", "slides") if by == "patient" else ("slide", "patient")), *answered, *MEASURED]
    # Extra columns in the order they are first met; one that has the name of ours is told apart.
    extra = {key: cell(f"manifest_{key}" if key in own else key) for row in rows for key in row.item.extra}

    def cells() -> Iterator[Mapping[str, Any]]:
        for row in rows:
            yield {
                **_names(row, by),
                **{extra[key]: value for key, value in row.item.extra.items()},
                **(_done(row.record, specs) if row.status == "done" else {}),
                "status": row.status,
                "notes": "; ".join((*row.record.get("notes", ()), *note(row.item))),
            }

    return csv_of_records(list(dict.fromkeys([*own, *extra.values()])), cells())


def _names(row: Row, by: str) -> Record:
    """What a row is about: a slide and its patient, or a patient and the slides."""
    if by != "patient":
        return {"slide": row.item.id, "patient": row.item.patient}
    stored = [file[0] for file in row.record.get("files", ())]
    slides = [slide.id for slide in row.item.slides] or stored
    return {"patient": row.item.id, "slides": ";".join(slides)}


def _done(record: Record, specs: Sequence[TaskSpec]) -> Record:
    cells = [
        entry
        for answer, spec in zip(record["answers"], specs, strict=True)
        for entry in cells_of(
            spec, answer["prediction"], *(answer.get(part) for part in ("values", "stderr", "low", "high"))
        )
    ]
    return {
        **dict(zip(columns_of(specs), cells, strict=True)),
        "tiles_read": record["tiles_read"],
        "rounds": record["rounds"],
        "bytes_read": record["bytes_read"],
        "bad_tiles": len(record["bad_tiles"]),
        **_unlike(unlike_of(record)),
        "seconds": f"{record['seconds'].get('total', 0):.3f}",
    }


def _unlike(found: Unlike | None) -> Record:
    """Whether the slide is unlike the training slides; nothing where the model cannot tell."""
    if found is None:
        return {}
    return {"unlike": "yes" if found.parts else "no", "unlike_score": number_cell(found.score)}


def _failures(rows: Iterable[Row], by: str) -> bytes:
    fields = list(Failure.__dataclass_fields__)
    columns = [by if field == "slide" else field for field in fields]
    failed = {row.item.id: row.record for row in rows if row.status == "failed"}  # each id once
    cells = ({by: id, **{f: record[f] for f in fields[1:]}} for id, record in failed.items())
    return csv_of_records(columns, cells)
