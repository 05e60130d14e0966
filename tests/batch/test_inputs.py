from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.support.helpers import shared_data
from wsi_ats.batch.inputs import SlideItem, find_slides, manifest_slides, slide_id
from wsi_ats.errors import ConfigError
from wsi_ats.slides.fingerprint import fingerprint_of


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of slides, among other things; the working directory."""
    for name in (
        "slides/b.svs",
        "slides/a.TIF",
        "slides/deep/er/a.tif",
        "slides/notes.txt",
        "slides/._b.svs",
        "slides/.hidden/c.svs",
        "slides/m.mrxs",
        "slides/m/Data0001.dat",
        "other/b.svs",
        "other/odd.bin",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ids(*arguments: str | Path) -> list[str]:
    return [item.id for item in find_slides(arguments)]


def test_a_folder_is_searched_recursively_in_a_fixed_order(tree: Path) -> None:
    assert ids("slides") == ["slides/a.TIF", "slides/b.svs", "slides/deep/er/a.tif", "slides/m.mrxs"]


def test_ids_are_paths_as_given(tree: Path) -> None:
    assert ids("./slides//b.svs") == ["slides/b.svs"]
    assert ids(tree / "slides/b.svs") == [f"{tree.as_posix()}/slides/b.svs"]
    assert ids("other/../slides/deep") == ["slides/deep/er/a.tif"]
    assert find_slides(["slides/b.svs"])[0].path == tree / "slides" / "b.svs"


def test_a_slide_met_twice_is_taken_once(tree: Path) -> None:
    assert ids("other/b.svs", "slides/b.svs", "slides", tree / "other") == [
        "other/b.svs",
        "slides/b.svs",
        "slides/a.TIF",
        "slides/deep/er/a.tif",
        "slides/m.mrxs",
    ]


def test_globs_match_files_and_folders(tree: Path) -> None:
    assert ids("slides/*.svs") == ["slides/b.svs"]
    assert ids("slides/**/a.*") == ["slides/a.TIF", "slides/deep/er/a.tif"]
    assert ids("sl*s") == ids("slides")


def test_a_file_may_have_any_suffix_and_brackets_in_its_name(tree: Path) -> None:
    (tree / "a[1].svs").write_bytes(b"x")
    assert ids("other/odd.bin", "a[1].svs") == ["other/odd.bin", "a[1].svs"]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("nowhere.svs", r"nowhere\.svs does not exist"),
        ("nowhere/*.svs", r"nowhere/\*\.svs matches no slide"),
        ("slides/m", "slides/m has no file that looks like a slide"),
    ],
)
def test_an_argument_that_leads_to_no_slide_is_an_error(tree: Path, argument: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        find_slides(["slides", argument])
    assert error.value.remedy
    with pytest.raises(ConfigError, match="no slides were given"):
        find_slides([])


def test_links_are_followed_and_loops_end(tree: Path) -> None:
    (tree / "slides" / "z-link").symlink_to(tree / "other")
    (tree / "slides" / "deep" / "loop").symlink_to(tree / "slides")
    assert ids("slides") == [
        "slides/a.TIF",
        "slides/b.svs",
        "slides/deep/er/a.tif",
        "slides/m.mrxs",
        "slides/z-link/b.svs",
    ]


def dicom(path: Path, series: str) -> None:
    uid = series.encode()
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\x20\x00\x0e\x00UI" + len(uid).to_bytes(2, "little") + uid)


def test_dicom_files_of_one_series_are_one_slide(tmp_path: Path) -> None:
    for name, series in (("0.dcm", "1.2.3"), ("1.dcm", "1.2.4"), ("2.dcm", "1.2.3"), ("3.dcm", "1.2.4")):
        dicom(tmp_path / name, series)
    (tmp_path / "4.dcm").write_bytes(b"no dicom")
    (tmp_path / "5.dcm").write_bytes(b"no dicom")
    assert [item.path.name for item in find_slides([tmp_path])] == ["0.dcm", "1.dcm", "4.dcm", "5.dcm"]


def test_real_dicom() -> None:
    """One image in two encodings, each with a series of its own."""
    found = find_slides([shared_data("slides/dicom")])
    assert [item.path.name for item in found] == ["jpeg.dicom", "raw.dicom"]


# Manifests


def manifest(tmp_path: Path, text: str) -> list[SlideItem]:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    return find_slides([path])


def test_manifest_columns(tmp_path: Path) -> None:
    first, second = manifest(
        tmp_path, "slide,patient,mpp,label,note\nsub/./a.svs,007,0.25,tumour,NA\n/abs/b.svs,8,,normal,\n"
    )
    assert first == SlideItem(
        "sub/a.svs", tmp_path / "sub/a.svs", 0.25, "007", {"label": "tumour", "note": "NA"}
    )
    assert second == SlideItem("/abs/b.svs", Path("/abs/b.svs"), None, "8", {"label": "normal", "note": ""})


def test_a_slide_that_is_not_there_is_left_to_fail_alone(tmp_path: Path) -> None:
    assert len(manifest(tmp_path, "slide\nmissing.svs\n")) == 1


def test_manifests_of_clam_and_trident(tmp_path: Path) -> None:
    (tmp_path / "tumor_001.ndpi").write_bytes(b"x")
    (tmp_path / "tumor_002.x.svs").write_bytes(b"x")
    first, second = manifest(tmp_path, "case_id,slide_id,label\np1,tumor_001,1\np2,tumor_002.x,0\n")
    assert (first.id, first.path.name, first.patient) == ("tumor_001", "tumor_001.ndpi", "p1")
    assert second.path.name == "tumor_002.x.svs"
    (item,) = manifest(tmp_path, "wsi,mpp\ntumor_001.ndpi,0.5\n")
    assert (item.id, item.mpp, item.extra) == ("tumor_001.ndpi", 0.5, {})
    (tmp_path / "tumor_001.svs").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"row 1: 'tumor_001' may be any of tumor_001.ndpi, tumor_001.svs"):
        manifest(tmp_path, "slide_id\ntumor_001\n")


def test_every_row_is_kept_and_two_scales_of_one_slide_are_an_error(tmp_path: Path) -> None:
    found = manifest(tmp_path, "slide,label\na.svs,x\na.svs,x\n./a.svs,y\n")
    assert [(item.id, item.extra["label"]) for item in found] == [("a.svs", label) for label in "xxy"]
    with pytest.raises(ConfigError, match=r"row 1 and .*row 3 both name 'a\.svs' .* mpp is 0\.25 and 0\.5"):
        manifest(tmp_path, "slide,mpp\na.svs,0.25\nb.svs,\n./a.svs,0.5\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file\na.svs\n", "no column 'slide'"),
        ("slide\n", "has no rows"),
        ("slide,mpp\na.svs,20x\n", "row 1: mpp is '20x'"),
        ("slide,mpp\na.svs,0.5\nb.svs,-1\n", "row 2: mpp is '-1'"),
        ("slide,label\na.svs,x\n,y\n", "row 2: slide is ''; every row must name a slide"),
        ("", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_told(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        manifest(tmp_path, text)


def test_manifest_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text("slide,label\nä.svs,1\n", encoding="utf-8-sig")
    assert [item.id for item in manifest_slides(path)] == ["ä.svs"]


def test_parquet_manifest(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    path = tmp_path / "list.parquet"
    pd.DataFrame({"slide": ["a.svs", "b.svs"], "mpp": [0.5, None], "patient": ["01", None]}).to_parquet(path)
    with pytest.warns(UserWarning, match=r"'patient' is empty in 1 of 2 rows \(number 2\)"):
        first, second = manifest_slides(path)
    assert (first.mpp, second.mpp) == (0.5, None)
    assert (first.patient, second.patient) == ("01", "")


def test_slide_id_is_posix() -> None:
    assert slide_id("./a//b/../c.svs") == "a/c.svs"
    assert slide_id(Path("a") / "b.svs") == "a/b.svs"


def test_ome_zarr_folders_are_slides_and_are_not_searched(tmp_path: Path) -> None:
    store = tmp_path / "slides" / "a.ome.zarr"
    (store / "0").mkdir(parents=True)
    (store / "0" / "not_a_slide.tif").touch()
    (tmp_path / "slides" / ".b.ome.zarr").mkdir()
    for arguments in ([tmp_path / "slides"], [store], [str(tmp_path / "slides" / "*")], [str(store) + "/"]):
        assert [item.path for item in find_slides(arguments)] == [store]


def test_urls_stay_as_they_are(tmp_path: Path) -> None:
    url = "https://example.org/slides//a.ome.zarr"
    assert [(item.id, item.path) for item in find_slides([url])] == [(url, url)]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"slide\n{url}\n")
    assert [(item.id, item.path) for item in find_slides([manifest])] == [(url, url)]


def test_the_stamp_of_a_slide_follows_its_file(tmp_path: Path) -> None:
    file, store = tmp_path / "a.tif", tmp_path / "b.ome.zarr"
    file.write_bytes(b"1234")
    assert fingerprint_of(file) == (4, file.stat().st_mtime_ns)
    store.mkdir()
    with pytest.raises(FileNotFoundError):
        fingerprint_of(store)
    (store / "zarr.json").write_text("{}")
    first = fingerprint_of(store)
    (store / "zarr.json").write_text('{"changed": 1}')
    assert fingerprint_of(store) != first
