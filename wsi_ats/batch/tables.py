"""predictions.csv and failures.csv: always made anew from the slides' folders, so that they cannot disagree
with them.

predictions.csv has one row a slide of the run, and one a row of its manifest, in the order given, so that it can be
joined with the manifest row by row: `status` is done, failed (why: failures.csv) or pending (interrupted before its
turn), and only done slides have numbers. Slides that other runs of the same model and settings left in the output
folder (the tasks of an array job, each with its share of the slides) follow, ordered by id: whoever ends last writes
the table of all.

Numbers are rounded to 6 digits: the same batch gives the same bytes, `seconds` aside, however often it was
interrupted."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_ats.atomic import write_atomic
from wsi_ats.batch.claim import acquire
from wsi_ats.batch.inputs import SlideItem
from wsi_ats.batch.store import Record, SlideStore, folder_name, read_record
from wsi_ats.batch.twins import note
from wsi_ats.errors import Failure
from wsi_ats.tasks.answer import TaskSpec, columns_of

MEASURED = ("tiles_read", "rounds", "bytes_read", "bad_tiles", "seconds", "status", "notes")


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
) -> None:
    """Write both tables; `settled` are the ids of the items that this run found or made done or failed.

    One process at a time: of two that end together the later one must also be the one that has seen more.
    """
    while (claim := acquire(out / ".tables")) is None:
        time.sleep(0.05)
    with claim:
        own = list(_own_rows(out, items, config_hash, settled))
        rows = [*own, *_other_rows(out, own, config_hash)]
        write_atomic(out / "predictions.csv", _predictions(rows, specs))
        write_atomic(out / "failures.csv", _failures(rows))


def _own_rows(
    out: Path, items: Iterable[SlideItem], config_hash: str, settled: Collection[str]
) -> Iterator[Row]:
    for item in items:
        store = SlideStore(out, item.source)
        settled_one = item.source in settled
        yield _row(item, store.folder, config_hash) if settled_one else Row(item, "pending", {})


def _other_rows(out: Path, own: Sequence[Row], config_hash: str) -> list[Row]:
    """Slides that other runs left, each file once: under another name it may be one of this run's."""
    folders = {folder_name(row.item.source) for row in own}
    taken = {_file_of(row) for row in own}
    rows = []
    for folder in (out / "slides").glob("*"):
        if folder.name not in folders:
            row = _row(None, folder, config_hash)
            if row.status != "pending" and _file_of(row) not in taken:
                rows.append(row)
    return sorted(rows, key=lambda row: row.item.id)


def _file_of(row: Row) -> tuple[str, object]:
    """Path of a slide and the mpp that it was read with: of two rows that agree in both, one is too many."""
    return str(row.item.path), row.record.get("mpp_given")


def _row(item: SlideItem | None, folder: Path, config_hash: str) -> Row:
    """A slide as its folder has it; an item's own patient and extra columns win over those it was stored
    with."""
    for name, status in (("result.json", "done"), ("failure.json", "failed")):
        record = read_record(folder / name)
        if record is not None and record.get("config_hash") == config_hash:
            stored = SlideItem(
                record["slide"], Path(record["path"]), None, record["patient"], record["extra"]
            )
            return Row(item or stored, status, record)
    return Row(item or SlideItem("", folder), "pending", {})


def _predictions(rows: Sequence[Row], specs: Sequence[TaskSpec]) -> bytes:
    answered = columns_of(specs)
    own = ["slide", "patient", *answered, *MEASURED]
    # Extra columns in the order they are first met; one that has the name of ours is told apart.
    extra = {key: f"manifest_{key}" if key in own else key for row in rows for key in row.item.extra}

    def cells() -> Iterator[Mapping[str, Any]]:
        for row in rows:
            yield {
                "slide": row.item.id,
                "patient": row.item.patient,
                **{extra[key]: value for key, value in row.item.extra.items()},
                **(_done(row.record, answered) if row.status == "done" else {}),
                "status": row.status,
                "notes": "; ".join((*row.record.get("notes", ()), *note(row.item))),
            }

    return _csv([*own, *extra.values()], cells())


def _done(record: Record, answered: Sequence[str]) -> Record:
    cells = [
        cell
        for answer in record["answers"]
        for cell in (answer["prediction"], *map(_number, answer["values"]), *map(_number, answer["stderr"]))
    ]
    return {
        **dict(zip(answered, cells, strict=True)),
        "tiles_read": record["tiles_read"],
        "rounds": record["rounds"],
        "bytes_read": record["bytes_read"],
        "bad_tiles": len(record["bad_tiles"]),
        "seconds": f"{record['seconds'].get('total', 0):.3f}",
    }


def _failures(rows: Iterable[Row]) -> bytes:
    columns = list(Failure.__dataclass_fields__)
    failed = {row.item.id: row.record for row in rows if row.status == "failed"}  # each id once
    return _csv(columns, ({**{c: record[c] for c in columns}, "slide": id} for id, record in failed.items()))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
