"""NGFF metadata, read and written."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ome_zarr import axes, multiscale
from wsi_ats.convert.ngff_write import image_attributes, label_attributes
from wsi_ats.errors import SlideError
from wsi_ats.geometry import Level, Pyramid, Size
from wsi_ats.slides.omezarr.ngff import parse_multiscale, pyramid_of

CYX = multiscale("cyx", [(0.25, 0.5), (0.5, 1.0)])


def parsed(image: dict[str, Any], version: str = "0.5") -> Any:
    if version == "0.4":
        return parse_multiscale({"multiscales": [{"version": version, **image}]}, "s")
    return parse_multiscale({"ome": {"version": version, "multiscales": [image]}}, "s")


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.5.2"])
def test_both_versions_say_the_same(version: str) -> None:
    image = parsed(CYX, version)
    assert (image.version, image.name, image.mpp_xy) == (version, "image", (0.25, 0.5))
    assert [axis.name for axis in image.axes] == ["c", "y", "x"]
    assert [dataset.path for dataset in image.datasets] == ["0", "1"]
    assert image.datasets[1].scale == (1.0, 1.0, 0.5)


def test_a_transformation_of_the_whole_image_comes_after_that_of_the_level() -> None:
    image = deepcopy(CYX)
    image["datasets"][1]["coordinateTransformations"].append(
        {"type": "translation", "translation": [0, 1, 2]}
    )
    image["coordinateTransformations"] = [
        {"type": "scale", "scale": [1, 10, 100]},
        {"type": "translation", "translation": [0, 7, 5]},
    ]
    level = parsed(image).datasets[1]
    assert level.scale == (1.0, 10.0, 50.0)
    assert level.translation == (0.0, 17.0, 205.0)
    assert parsed(image).mpp_xy == (25.0, 5.0)


@pytest.mark.parametrize(
    ("unit", "micrometres"),
    [("micrometer", 1), ("nanometer", 1e-3), ("millimeter", 1e3), ("Micrometer", 1), ("µm", 1)],
)
def test_units_become_micrometres(unit: str, micrometres: float) -> None:
    image = multiscale("cyx", [(3.0, 5.0)], {"y": unit, "x": unit})
    assert parsed(image).mpp_xy == pytest.approx((3 * micrometres, 5 * micrometres))


@pytest.mark.parametrize("units", [{}, {"y": "micrometer"}, {"y": "pixel", "x": "pixel"}])
def test_without_a_unit_of_length_there_is_no_mpp(units: dict[str, str]) -> None:
    assert parsed(multiscale("cyx", [(3.0, 5.0)], units)).mpp_xy is None


def test_axes_are_told_by_their_type_and_in_any_order() -> None:
    image = multiscale("xcy", [(0.25, 0.5)])
    image["axes"][1]["name"] = "colour"
    found = parsed(image)
    assert [found.index(name) for name in "yxczt"] == [2, 0, 1, None, None]
    assert found.mpp_xy == (0.25, 0.5)


def broken(change: Any) -> dict[str, Any]:
    image = deepcopy(CYX)
    change(image)
    return image


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i.pop("axes"), "axes is missing"),
        (lambda i: i.update(axes="cyx"), "axes is 'cyx'"),
        (lambda i: i.update(axes=axes("cy")), r"\['c', 'y'\]; y and x must be among them"),
        (lambda i: i.update(axes=axes("yyx")), "each axis once"),
        (lambda i: i["axes"][0].update(type="space", name="w"), "none of t, c, z, y, x"),
        (lambda i: i.update(datasets=[]), "datasets is empty"),
        (lambda i: i["datasets"][0].pop("path"), "path is missing"),
        (lambda i: i["datasets"].append(3), "dataset 3 is no object"),
        (lambda i: i["datasets"][1].update(coordinateTransformations=[]), "level '1' has .* the rule is one"),
        (
            lambda i: i["datasets"][1]["coordinateTransformations"].append({"type": "scale"}),
            "level '1' has the transformations .'scale', 'scale'.",
        ),
        (
            lambda i: i["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 0, 1]),
            "scale of level '0' is .1, 0, 1.; it must be",
        ),
        (
            lambda i: i["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 1]),
            "a number for each of the axes",
        ),
        (
            lambda i: i["datasets"][0]["coordinateTransformations"][0].update(scale=[1, "1", 1]),
            "it must be a list",
        ),
        (
            lambda i: i["datasets"][0]["coordinateTransformations"].append({"type": "affine", "affine": []}),
            "the affine of level '0'",
        ),
    ],
)
def test_what_breaks_the_standard_is_named(change: Any, said: str) -> None:
    with pytest.raises(SlideError, match=f"slide 's': .*{said}"):
        parsed(broken(change))


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({}, "multiscales is missing"),
        ({"ome": 3}, "multiscales is missing"),
        ({"multiscales": []}, "an image first"),
        ({"ome": {"version": "0.6", "multiscales": [CYX]}}, "version 0.6 is not read, only 0.4 and 0.5"),
        ({"multiscales": [{**CYX, "version": "0.1"}]}, "version 0.1"),
    ],
)
def test_what_is_no_image_is_named(attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(SlideError, match=said):
        parse_multiscale(attributes, "s")


def test_levels_lie_where_their_scales_say_not_where_rounded_sizes_do() -> None:
    # 1001 x 503 px, halved and rounded down: a pixel of level 2 still covers exactly 4 x 4 px.
    image = parsed(multiscale("cyx", [(0.5, 0.5), (1, 1), (2, 2)]))
    pyramid, doubts = pyramid_of(image, [Size(1001, 503), Size(500, 251), Size(250, 125)], "s")
    assert [level.downsample for level in pyramid.levels] == [(1, 1), (2, 2), (4, 4)]
    assert not doubts


def test_scales_that_contradict_the_sizes_are_not_taken() -> None:
    image = parsed(multiscale("cyx", [(0.5, 0.5), (0.5, 0.5)]))
    pyramid, doubts = pyramid_of(image, [Size(1000, 500), Size(250, 125)], "s")
    assert pyramid.levels[1].downsample == (4, 4)
    assert sorted(doubts) == ["ngff.level[1].x", "ngff.level[1].y"]


def test_levels_must_be_ordered_and_show_the_same() -> None:
    image = parsed(CYX)
    with pytest.raises(SlideError, match=r"level 1 has 20 x 20 px, more than"):
        pyramid_of(image, [Size(10, 10), Size(20, 20)], "s")
    moved = deepcopy(CYX)
    moved["datasets"][1]["coordinateTransformations"].append(
        {"type": "translation", "translation": [0, 5, 0]}
    )
    with pytest.raises(SlideError, match=r"level 1 begins 9\.5 level-0 px from level 0 in y"):
        pyramid_of(parsed(moved), [Size(20, 20), Size(10, 10)], "s")


@given(
    st.lists(st.integers(1, 9000), min_size=2, max_size=2),
    st.integers(1, 6),
    st.floats(0.1, 3),
    st.floats(0.1, 3),
)
def test_what_is_written_is_read_back(size: list[int], count: int, mpp_x: float, mpp_y: float) -> None:
    sizes = [tuple(size)]
    for _ in range(count - 1):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    pyramid = Pyramid.of_sizes(sizes)
    for version in ("0.5", "0.4"):
        image = parse_multiscale(image_attributes(version, "n", pyramid, (mpp_x, mpp_y), ("mean", "m")), "s")
        assert image.mpp_xy == (mpp_x, mpp_y)
        back, doubts = pyramid_of(image, [level.size for level in pyramid.levels], "s")
        assert back == pyramid
        assert not doubts
        labels = label_attributes(version, "tissue", pyramid, (mpp_x, mpp_y), {1: (0, 255, 0, 90)})
        assert [d.scale for d in parse_multiscale(labels, "s").datasets] == [
            d.scale[1:] for d in image.datasets
        ]


def test_what_is_written_is_what_the_design_says() -> None:
    pyramid = Pyramid((Level(0, Size(1000, 600), (1.0, 1.0)), Level(1, Size(250, 120), (4.0, 5.0))))
    ome = image_attributes("0.5", "slide", pyramid, (0.25, 0.5), ("mean", "how"))["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert image["axes"] == [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    first, second = image["datasets"]
    assert first["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 0.5, 0.25]}]
    assert second["coordinateTransformations"] == [
        {"type": "scale", "scale": [1.0, 2.5, 1.0]},
        {"type": "translation", "translation": [0.0, 1.0, 0.375]},
    ]
    assert ome["omero"]["rdefs"] == {"model": "color"}
    assert [c["color"] for c in ome["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]
    assert all(
        c["window"] == {"start": 0, "end": 255, "min": 0, "max": 255} for c in ome["omero"]["channels"]
    )
    unknown = image_attributes("0.5", "slide", pyramid, None, ("mean", "how"))["ome"]["multiscales"][0]
    assert "unit" not in unknown["axes"][1]
    assert np.allclose(unknown["datasets"][1]["coordinateTransformations"][0]["scale"], [1, 5, 4])
