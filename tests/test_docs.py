"""What the documentation says is true: its Python runs, its commands parse, its links lead somewhere, and its tables
of columns and keys are those of the files."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import pytest
import typer
from typer.testing import CliRunner

from tests.conftest import SmallRun
from wsi_ats.batch.cluster import local_cluster
from wsi_ats.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "RELEASING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MACHINE_PATH = re.compile(r"(?<![\w.:/~])/(?:home|root|tmp|work|Users|mnt|var|opt|data)/")


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(text: str) -> Iterator[list[str]]:
    """Arguments of every `wsi-ats` command of a shell block, comments left out."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["wsi-ats"]:
            yield words[1:]


# -- Python


@pytest.fixture
def workplace(small_run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader has it after `make demo`, with slides and a manifest under the names of the pages."""
    (tmp_path / "demo").symlink_to(small_run.folder)
    (tmp_path / "run").symlink_to(small_run.folder / "run")
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a01.svs").symlink_to(small_run.slides[1])
    (tmp_path / "cohort.csv").write_text(f"slide\n{small_run.slides[0]}\n{small_run.slides[1]}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class JobqueueStandIn:
    """dask_jobqueue.SLURMCluster for a machine without SLURM: knows its parameters, starts one worker here."""

    status = None

    def __init__(
        self,
        *,
        queue: str,
        account: str,
        cores: int,
        processes: int,
        memory: str,
        walltime: str,
        job_cpu: int,
        job_script_prologue: list[str],
    ) -> None:
        assert cores >= processes >= 1
        assert job_cpu >= 1
        self.jobs = 0
        self._cluster = local_cluster(1)

    def __enter__(self) -> JobqueueStandIn:
        self.scheduler_address = str(self._cluster.__enter__().cluster.scheduler_address)
        return self

    def __exit__(self, *error: Any) -> None:
        self._cluster.__exit__(*error)
        assert self.jobs >= 1, "no job was asked for"

    def scale(self, *, jobs: int) -> None:
        self.jobs = jobs


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=page_id)
def test_python_runs(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after the other, in one namespace."""
    jobqueue = ModuleType("dask_jobqueue")
    jobqueue.SLURMCluster = JobqueueStandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", jobqueue)
    space: dict[str, object] = {"__name__": f"docs_{page.stem}"}
    monkeypatch.setitem(sys.modules, f"docs_{page.stem}", ModuleType(f"docs_{page.stem}"))
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{page_id(page)}, Python block {number}", "exec"), space)


# -- the command line


def command_named(name: str) -> Any:
    """The parsed command; of click's own classes or of typer's copy of them, as the version of typer has it."""
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    assert name in commands, f"wsi-ats has no command {name!r}"
    return commands[name]


def options_of(command: Any) -> set[str]:
    return {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_parse(page: Path) -> None:
    for block in blocks(page, "bash"):
        for name, *arguments in commands(block):
            command_named(name).make_context(name, arguments)  # raises where an option or argument is wrong


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    known = set.union(
        *(
            options_of(command_named(name))
            for name in (
                "train",
                "predict",
                "heatmap",
                "info",
                "convert",
                "config",
                "evaluate",
                "evidence",
                "export",
            )
        )
    )
    for span in re.findall(r"`([^`\n]+)`", text):
        mentioned = set(re.findall(r"(?<!\S)--[a-z-]+", span))
        named = re.match(r"wsi-ats ([a-z]+)", span)
        if named:
            assert mentioned <= options_of(command_named(named[1])), span
        elif span.startswith("--"):
            assert mentioned <= known, span


def test_the_checks_of_commands_can_fail() -> None:
    with pytest.raises(Exception, match="no-such"):
        command_named("predict").make_context("predict", ["model", "slide", "--out", "x", "--no-such"])
    with pytest.raises(AssertionError, match="no command"):
        command_named("forecast")


@pytest.mark.parametrize("name", ["info", "heatmap", "config"])
def test_quick_commands_of_the_readme_run(name: str, workplace: Path) -> None:
    lines = [words for block in blocks(ROOT / "README.md", "bash") for words in commands(block)]
    mine = [words for words in lines if words[0] == name]
    assert mine
    for words in mine:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output


# -- links and paths


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, place = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if place:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in map(anchor, headings), target


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_named_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|pipelines|wsi_ats|benchmarks|notebooks)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_path_of_a_machine(page: Path) -> None:
    assert not MACHINE_PATH.search(page.read_text(encoding="utf-8"))


def test_every_page_is_on_the_map() -> None:
    """That of its folder for a decision, which the map of all names."""
    decisions = ROOT / "docs" / "decisions"
    for page in PAGES:
        inside = page.parent == decisions and page.name != "README.md"
        index = (decisions / "README.md" if inside else ROOT / "docs" / "index.md").read_text(
            encoding="utf-8"
        )
        if page == ROOT / "docs" / "index.md":
            continue
        if page == decisions / "README.md":
            assert "(decisions/README.md)" in index
        else:
            assert re.search(rf"\(({page.name}|\.\./{re.escape(page_id(page))})\)", index), page_id(page)


# -- the files of formats.md


def keys_of_table(name: str) -> set[str]:
    """The names in the first column of the table marked `<!-- keys: name -->`."""
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    table = text.split(f"<!-- keys: {name} -->\n", 1)[1].split("\n\n", 1)[0]
    first = [line.split("|")[1] for line in table.splitlines()[2:]]
    return {key.lstrip("/") for cell in first for key in re.findall(r"`([^`]+)`", cell)}


def header(path: Path) -> set[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return {re.sub(r"^(prob|stderr|low|high)_.*", r"\1_<class>", name) for name in next(csv.reader(file))}


def test_the_tables_of_formats_name_what_the_files_hold(small_run: SmallRun) -> None:
    out = small_run.folder / "out"
    slide = next((out / "slides").iterdir())
    with h5py.File(slide / "attention.h5") as file:
        datasets, of_coords = set(file), set(file["coords"].attrs)
        attributes = set(file.attrs)
    found = {
        "predictions.csv": header(out / "predictions.csv"),
        "failures.csv": header(out / "failures.csv"),
        "run.json": set(json.loads((out / "run.json").read_text())),
        "result.json": set(json.loads((slide / "result.json").read_text())),
        "attention.h5": datasets,
        "attention.h5 coords attributes": of_coords,
        "attention.h5 attributes": attributes - of_coords,
    }
    assert of_coords < attributes, "on the file, too"
    assert {name: keys_of_table(name) for name in found} == found


@pytest.mark.parametrize(("section", "folder"), [("a training run", "run"), ("predictions", "out")])
def test_the_trees_of_formats_name_the_files(section: str, folder: str, small_run: SmallRun) -> None:
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    tree = text.split(f"## Out: {section}\n", 1)[1].lstrip("\n").split("\n\n", 1)[0]
    named = {line.split()[0].split("/")[0] for line in tree.splitlines()}
    found = {path.name for path in (small_run.folder / folder).rglob("*") if path.is_file()}
    tops = {path.name for path in (small_run.folder / folder).iterdir()}
    assert tops <= named
    assert found - {"last.ckpt", "best.ckpt"} <= named
