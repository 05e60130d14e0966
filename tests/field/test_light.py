"""Tinted glass and dim lamps: the tissue is that of the slide in ordinary light, and a note says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.field.test_pen import GLASS, PLAIN, TISSUE, prepared, section, texture
from tests.support.helpers import shared_data
from wsi_ats.errors import NoTissueError
from wsi_ats.lowres.light import Light
from wsi_ats.lowres.tissue import Method, stain_rule, tissue_mask
from wsi_ats.lowres.view import read_view, resolve_downsample
from wsi_ats.slides import open_slide
from wsi_ats.synthetic.artefacts import PENS, in_falling_light, in_light, with_pen

TINTS = {"warm": (1.0, 0.5, 0.0), "cool": (0.0, 0.5, 1.0), "green": (0.0, 1.0, 0.0)}
"""How much of a cast each colour is spared."""
METHODS: list[Method] = ["saturation", "optical-density"]


def tint(name: str, cast: float) -> tuple[float, float, float]:
    red, green, blue = (1 - cast * (1 - spared) for spared in TINTS[name])
    return red, green, blue


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=10)
@given(name=st.sampled_from(list(TINTS)), cast=st.floats(0, 0.12), lamp=st.floats(0.3, 1))
def test_the_mask_does_not_depend_on_the_light(method: Method, name: str, cast: float, lamp: float) -> None:
    shown = in_light(PLAIN, lamp, tint(name, cast))
    expected = tissue_mask(PLAIN, method=method, min_object=64, min_hole=64)
    mask = tissue_mask(shown, method=method, min_object=64, min_hole=64)
    assert (mask ^ expected).sum() < 0.03 * expected.sum()


@pytest.mark.parametrize("name", TINTS)
def test_a_tint_is_told(name: str) -> None:
    slide = prepared(in_light(PLAIN, 1.0, tint(name, 0.08)))
    assert [note for note in slide.notes if "glass is tinted" in note]
    assert len(set(slide.tissue.tolist()) ^ set(prepared(PLAIN).tissue.tolist())) <= 3


@pytest.mark.parametrize("lamp", [1.0, 0.6])
@pytest.mark.parametrize(
    "cast", [(0.6, 1.0, 1.0), (0.5, 1.0, 1.0), (1.0, 1.0, 0.5), (0.5, 1.0, 0.5), (0.55, 0.8, 1.0)]
)
def test_a_cast_over_the_whole_view_that_is_no_stain_s_is_light_and_no_pen(
    cast: tuple[float, float, float], lamp: float
) -> None:
    shown = prepared(in_light(PLAIN, lamp, cast))
    assert shown.view_shares["pen"] == 0
    assert [note for note in shown.notes if "glass is tinted" in note]
    assert len(set(shown.tissue.tolist()) ^ set(prepared(PLAIN).tissue.tolist())) <= 3


@pytest.mark.parametrize("levels", [1, 2])
def test_where_a_cast_may_be_pen_the_reason_and_the_remedy_are_those_of_a_cast(levels: int) -> None:
    two = ["attention.levels=2", "attention.network=wide", "regions.side=4", "regions.shrink=2"]
    with pytest.raises(
        NoTissueError, match=r"no glass is found, and its large even parts \(RGB 24\d"
    ) as caught:
        prepared(in_light(PLAIN, 1.0, (1.0, 0.6, 0.6)), *(two if levels == 2 else []))
    assert "white balance" in caught.value.remedy


def test_much_pen_where_no_glass_is_found_may_be_tinted_glass_and_is_told() -> None:
    half = PLAIN[64:192, 40:216]  # less than half of it glass
    notes = prepared(in_light(half, 1.0, (1.0, 0.6, 0.6))).notes
    assert [note for note in notes if "strong tint, and count as pen" in note], notes


STRONG = {
    "pink": (1.0, 0.85, 0.9),
    "pinker": (1.0, 0.8, 0.87),
    "violet": (0.8, 0.75, 1.0),
    "blue": (0.75, 0.85, 1.0),
    "cyan": (0.8, 1.0, 1.0),
    "green": (0.8, 1.0, 0.75),
    "yellow": (1.0, 1.0, 0.75),
    "orange": (1.0, 0.85, 0.75),
}


@pytest.mark.parametrize("lamp", [1.0, 0.45])
@pytest.mark.parametrize("colour", STRONG)
def test_glass_of_a_strong_tint_is_found_and_told(colour: str, lamp: float) -> None:
    shown = prepared(in_light(PLAIN, lamp, STRONG[colour]))
    assert [note for note in shown.notes if "glass is tinted" in note]
    assert len(set(shown.tissue.tolist()) ^ set(prepared(PLAIN).tissue.tolist())) <= 3


@pytest.mark.parametrize("tint", [(1.0, 0.65, 0.75), (0.9, 0.6, 1.0)])
def test_where_no_glass_is_found_large_even_parts_that_count_as_tissue_are_told(
    tint: tuple[float, float, float],
) -> None:
    slide = prepared(in_light(PLAIN, 1.0, tint))  # beyond any glass
    assert slide.view_shares["tissue"] > 0.95
    red, green, blue = (round(242 * share) for share in tint)
    (note,) = slide.notes
    assert "nothing on the view is taken for glass" in note
    told = [int(level) for level in note[note.index("RGB ") + 4 : note.index(")")].split(",")]
    assert np.abs(np.subtract(told, (red, green, blue))).max() < 9


@pytest.mark.parametrize("tint", [(1.0, 1.0, 1.0), *STRONG.values()])
@pytest.mark.parametrize("stain", ["H&E", "trichrome, blue", "DAB and haematoxylin"])
def test_textured_tissue_alone_is_never_glass_whatever_its_tint(
    stain: str, tint: tuple[float, float, float]
) -> None:
    view, _ = section(stain, side=256)
    light = stain_rule([in_light(view[80:176, 80:176], 1.0, tint)]).light
    assert light.glass is None
    assert light.doubtful is None


@pytest.mark.parametrize(
    ("lamp", "told"),
    [
        *((0.3, "29%"), (0.35, "33%"), (0.4, "38%"), (0.45, "42%"), (0.5, "47%")),
        *((0.6, "57%"), (0.7, "66%"), (0.9, ""), (1.0, "")),
    ],
)
def test_a_dim_lamp_is_told(lamp: float, told: str) -> None:
    notes = prepared(in_light(PLAIN, lamp)).notes
    assert notes == ((f"dim lamp: glass at {told} of full light",) if told else ())


@pytest.mark.parametrize("lamp", [0.7, 0.4, 0.3])
def test_a_pen_is_told_in_any_light(lamp: float) -> None:
    inked = with_pen(PLAIN, PENS["blue"], [(20, 20), (236, 22)], 14)
    notes = prepared(in_light(inked, lamp, tint("warm", 0.1))).notes
    assert len(notes) == 3, notes


@pytest.mark.parametrize("stain", ["H&E", "DAB and haematoxylin"])
@pytest.mark.parametrize("radial", [False, True])
@pytest.mark.parametrize("lowest", [0.7, 0.6, 0.45, 0.3])
def test_falling_light_is_told_and_takes_no_tissue(stain: str, radial: bool, lowest: float) -> None:
    view, _ = section(stain)
    even = prepared(view)
    slide = prepared(in_falling_light(view, lowest, radial=radial))
    assert [note for note in slide.notes if note.startswith("uneven light: glass falls to")]
    assert slide.view_shares["pen"] == 0
    assert slide.view_shares["black"] < 0.01
    assert len(set(slide.tissue.tolist()) ^ set(even.tissue.tolist())) <= 0.03 * len(even.tissue)


@pytest.mark.parametrize("lowest", [0.6, 0.45, 0.35])
def test_tissue_in_the_bright_middle_of_a_view_with_dim_glass_stays(lowest: float) -> None:
    view = section("DAB and haematoxylin")[0][32:224, 32:224]  # its glass lies in the corners alone
    expected = prepared(view).tissue
    slide = prepared(in_falling_light(view, lowest, radial=True))
    assert len(set(expected.tolist()) - set(slide.tissue.tolist())) <= 0.03 * len(expected)
    assert [note for note in slide.notes if note.startswith("uneven light")]


@pytest.mark.parametrize(
    ("radial", "share"), [(False, "6"), (True, "")], ids=["from the left", "from the middle"]
)
def test_it_is_told_how_far_light_falls(radial: bool, share: str) -> None:
    light = stain_rule([in_falling_light(PLAIN, 0.6, radial=radial)]).light
    assert f"glass falls to {share}" in light.notes[0]
    assert 0.6 < light.dimmest < 0.8
    assert 0.1 < light.shaded < 0.7


@pytest.mark.parametrize("lowest", [1.0, 0.9])
@pytest.mark.parametrize("pen", [None, *PENS])
@pytest.mark.parametrize("opacity", [0.6, 0.9])
def test_light_that_hardly_falls_is_even_with_any_pen(lowest: float, pen: str | None, opacity: float) -> None:
    view = PLAIN if pen is None else with_pen(PLAIN, PENS[pen], [(20, 20), (236, 22)], 14, opacity=opacity)
    assert not stain_rule([in_falling_light(view, lowest)]).light.is_uneven


@pytest.mark.parametrize("pen", ["blue", "green"])
def test_a_pen_is_no_tissue_in_falling_light(pen: str) -> None:
    inked = with_pen(PLAIN, PENS[pen], [(20, 20), (236, 22)], 14)
    slide = prepared(in_falling_light(inked, 0.5))
    assert any(note.startswith("pen on ") for note in slide.notes)
    assert set(slide.tissue.tolist()) <= set(prepared(PLAIN).tissue.tolist())


@pytest.mark.parametrize("lamp", [0.2, 0.15, 0.1])
def test_a_slide_without_light_is_refused(lamp: float) -> None:
    with pytest.raises(NoTissueError) as caught:
        prepared(in_light(PLAIN, lamp))
    assert "too little light" in caught.value.remedy
    assert "of full light" in stain_rule([in_light(PLAIN, lamp)]).light.notes[0]


@pytest.mark.parametrize("lamp", [0.3, 0.4, 0.5])
def test_a_dim_slide_that_is_all_tissue_is_told(lamp: float) -> None:
    view, _ = section(side=256)
    assert any(
        "of full light" in note for note in stain_rule([in_light(view[80:176, 80:176], lamp)]).light.notes
    )


@pytest.mark.parametrize("levels", [1, 2])
def test_what_is_nearly_all_pen_is_refused(levels: int) -> None:
    blue = np.full((256, 256, 3), (60, 80, 180), np.uint8)
    blue[:40] = PLAIN[100:140]
    two = ["attention.levels=2", "attention.network=wide", "regions.side=4", "regions.shrink=2"]
    with pytest.raises(NoTissueError, match="no pen covers more than 50%") as caught:
        prepared(blue, *(two if levels == 2 else []))
    assert "tissue.pen=false" in caught.value.remedy
    assert len(prepared(blue, "tissue.pen=false", *(two if levels == 2 else [])).tissue)


@pytest.mark.parametrize("stain", ["H&E", "trichrome, blue", "DAB and haematoxylin"])
def test_a_slide_that_is_all_tissue_has_no_glass(stain: str) -> None:
    view, inside = section(stain, side=256)
    whole = view[80:176, 80:176]
    assert inside[80:176, 80:176].all()
    assert stain_rule([whole]).light == Light()


@pytest.mark.parametrize("pale", [(236, 205, 222), (225, 160, 195), (190, 150, 120), (150, 110, 80)])
def test_even_tissue_is_not_taken_for_glass(pale: tuple[int, int, int]) -> None:
    assert stain_rule([np.full((64, 64, 3), pale, np.uint8)]).light == Light()


def test_grey_ink_on_glass_as_white_as_the_background_is_not_taken_for_glass() -> None:
    white = np.where(section()[1][..., None], PLAIN, np.uint8(255))
    grey = with_pen(white, (120, 120, 122), [(20, 20), (236, 22)], 20, opacity=0.8)
    assert stain_rule([grey]).light == Light()
    assert np.array_equal(tissue_mask(grey, min_object=64), tissue_mask(white, min_object=64))


def pale(density: tuple[float, float, float], share: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """A view of pale tissue in its upper part, with hardly any saturation, and where it is."""
    inside = np.zeros((256, 256), bool)
    inside[: round(256 * share)] = True
    amount = np.exp(0.5 * texture(inside.shape, 3, 0.8))[..., None] * inside[..., None]
    noise = np.random.default_rng(0).normal(0, 1, (256, 256, 3))
    return np.clip(np.asarray(GLASS) * 10 ** (-amount * density) + noise, 0, 255).astype(np.uint8), inside


def test_a_pale_stain_of_little_saturation_is_tissue() -> None:
    view, inside = pale((0.09, 0.07, 0.06))
    mask = tissue_mask(view, min_object=64, min_hole=64)
    assert mask[inside].mean() > 0.9
    assert mask[~inside].mean() < 0.02


def test_grey_dust_is_none_where_it_is_little() -> None:
    view, inside = pale((0.08, 0.08, 0.08), share=0.06)
    assert tissue_mask(view, min_object=64, min_hole=64)[inside].mean() < 0.3


def test_much_that_is_textured_and_too_pale_is_told() -> None:
    light = stain_rule([pale((0.028, 0.026, 0.025))[0]]).light
    assert [note for note in light.notes if "too pale to count as tissue" in note]
    assert not stain_rule([PLAIN]).light.notes


def faded(view: np.ndarray, strength: float) -> np.ndarray:
    """A view whose stain has a share of its strength."""
    noise = np.random.default_rng(0).normal(0, 1, view.shape)
    glass = np.asarray(GLASS, float)
    return np.clip(glass * (np.maximum(view, 1) / glass) ** strength + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("share", [1.0, 0.5], ids=["much tissue", "little tissue"])
@pytest.mark.parametrize(
    ("strength", "least"), [(1.0, 0.99), (0.5, 0.99), (0.2, 0.99), (0.12, 0.5), (0.1, 0.1)]
)
def test_a_pale_stain_of_which_much_counts_as_glass_is_told(
    strength: float, least: float, share: float
) -> None:
    rows = round(256 * share)
    view = np.full_like(PLAIN, GLASS)
    view[:rows] = PLAIN[:rows]
    pale = faded(view, strength)
    kept = tissue_mask(pale, min_object=64, min_hole=64)[:rows][TISSUE[:rows]].mean()
    assert kept > least
    told = [note for note in stain_rule([pale]).light.notes if note.startswith("pale stain: ")]
    assert len(told) == (kept < 0.9), told


@pytest.mark.parametrize(
    ("name", "least"), [("OS-2-ndpi.ome.tif", 0.7), ("OS-2-vsi.ome.tif", 0.4)], ids=["ndpi", "vsi"]
)
def test_a_real_slide_with_a_light_counterstain_is_mostly_tissue(name: str, least: float) -> None:
    with open_slide(shared_data(f"slides/ometiff/{name}")) as slide:
        view = read_view(slide, resolve_downsample(slide, mpp=8, downsample=None, setting="view"), 4)
    mask = tissue_mask(view.pixels, min_object=64, min_hole=64)
    assert mask.mean() > least
    assert not mask[39:48, 2:12].any()  # glass
