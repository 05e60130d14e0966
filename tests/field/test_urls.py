"""Slides behind URLs, by every command that says it takes them; servers that are slow, or lose what they had."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import run
from tests.support.ome_zarr import write_image
from tests.support.range_server import RangeServer
from tests.support.tiffs import picture
from wsi_ats.errors import SlideError
from wsi_ats.slides import open_slide
from wsi_ats.slides.storage import remote
from wsi_ats.slides.storage.opening import ByteRange, open_source

pytest.importorskip("obstore", reason="obstore (the extra 'remote') is not installed")

PREDICT = ("predict", "run/model", "--tiles", "6", "--no-heatmaps", "--workers", "0")


@pytest.fixture
def server(place: Path) -> Iterator[RangeServer]:
    with RangeServer((place / "slides").resolve()) as running:
        yield running


def rows(out: str) -> list[dict[str, str]]:
    with (Path(out) / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_predict_takes_urls_beside_paths(server: RangeServer) -> None:
    url, by_file = f"{server.url}/test_0.tif", Path("slides/test_1.tif").resolve().as_uri()
    run(*PREDICT, url, by_file, "slides/test_0.tif", "--out", "out")
    far, file, near = rows("out")
    assert (far["slide"], file["slide"]) == (url, by_file)
    assert {row["status"] for row in (far, file, near)} == {"done"}
    assert far["prediction"] == near["prediction"]


def test_a_manifest_may_name_urls(server: RangeServer) -> None:
    url = f"{server.url}/test_0.tif"
    Path("m.csv").write_text(f"slide,patient\n{url},P1\n{server.url}/none.tif,P2\n")
    run(*PREDICT, "m.csv", "--out", "out", status=1)
    done, failed = rows("out")
    assert (done["slide"], done["status"]) == (url, "done")
    assert (failed["slide"], failed["status"]) == (f"{server.url}/none.tif", "failed")


def test_what_a_query_asks_for_tells_slides_apart(server: RangeServer) -> None:
    urls = [f"{server.url}/test_{i}.tif?file={i}&token=t" for i in (0, 1)]
    run(*PREDICT, *urls, "--out", "out")
    names = [row["slide"] for row in rows("out")]
    assert len(set(names)) == 2
    assert not [name for name in names if "token" in name or "file=" in name]


def test_info_heatmap_and_convert_take_urls(server: RangeServer) -> None:
    url = f"{server.url}/test_0.tif"
    assert json.loads(run("info", url, "--json").stdout)["slide"] == "test_0.tif"
    assert "0.5 x 0.5" in run("info", Path("slides/test_0.tif").resolve().as_uri()).stdout
    run("heatmap", "run/model", url, "--tiles", "4", "--out", "a.png")
    assert Path("a.png").stat().st_size > 1000
    run("convert", url, "a.ome.zarr")
    with open_slide("a.ome.zarr") as copy, open_slide("slides/test_0.tif") as slide:
        np.testing.assert_array_equal(copy.read((0, 0), (300, 300)), slide.read((0, 0), (300, 300)))


def test_a_server_that_trickles_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").write_bytes(bytes(100_000))
    monkeypatch.setattr(remote, "PATIENCE_S", 0.5)
    monkeypatch.setattr(remote, "SLOWEST", 1 << 20)
    begun = time.monotonic()
    with (
        RangeServer(tmp_path, faults=("trickle",) * 9) as server,
        pytest.raises(SlideError, match=r"a\.tif cannot be read: the server has not answered after 0\.5 s"),
    ):
        open_slide(f"{server.url}/a.tif")
    assert time.monotonic() - begun < 5


def test_a_large_answer_gets_the_time_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(range(20)))  # a second at 0.05 s a byte
    monkeypatch.setattr(remote, "PATIENCE_S", 0.2)
    monkeypatch.setattr(remote, "SLOWEST", 10)
    with RangeServer(tmp_path, faults=("trickle",)) as server:
        assert open_source(f"{server.url}/a").read(ByteRange()) == bytes(range(20))


def test_files_that_vanish_from_a_server_are_not_background(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [picture(200, 200)])
    with RangeServer(tmp_path) as server, open_slide(f"{server.url}/a.zarr") as slide:
        before = slide.read((0, 0), (60, 60))
        (path / "0" / "c" / "0" / "1" / "1").unlink()  # one that is not stored is
        assert (slide.read((60, 70), (20, 20)) == 0).all()
        path.rename(tmp_path / "b.zarr")
        with pytest.raises(SlideError, match="is gone from its server"):
            slide.read((100, 100), (60, 60))
        (tmp_path / "b.zarr").rename(path)
        np.testing.assert_array_equal(slide.read((0, 0), (60, 60)), before)


def test_a_tiff_that_vanishes_from_a_server_is_not_background(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tif"
    copy.write_bytes(Path("slides/test_0.tif").read_bytes())
    with RangeServer(tmp_path) as server, open_slide(f"{server.url}/copy.tif") as slide:
        copy.unlink()
        with pytest.raises(SlideError, match="is gone from its server"):
            slide.read((0, 0), (600, 600))


@pytest.mark.parametrize(
    ("fault", "said"), [("403", "a bucket that may not be listed answers so"), ("400", "answers 400")]
)
def test_only_404_is_absent(tmp_path: Path, fault: str, said: str) -> None:
    write_image(tmp_path / "a.zarr", [picture(200, 200)])
    with RangeServer(tmp_path) as server:
        opened = open_slide(f"{server.url}/a.zarr")
    with RangeServer(tmp_path, faults=(fault,) * 99) as server, opened as slide:
        assert slide.size == (200, 200)
        with open_source(f"{server.url}/a.zarr") as source, pytest.raises(OSError, match=said):
            source.exists("0/c/0/0/0")
