"""Black and transparent are neither tissue nor glass: what they cover changes nothing, and is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.field.test_pen import prepared, section
from wsi_ats.errors import NoTissueError
from wsi_ats.lowres.tissue import Method, tissue_mask
from wsi_ats.slides import open_slide
from wsi_ats.synthetic.artefacts import with_black

PLAIN, _ = section(side=128)
both = pytest.mark.parametrize("method", ["saturation", "optical-density"])


@both
@settings(deadline=None, max_examples=8)
@given(share=st.floats(0, 0.95))
def test_the_mask_is_that_of_the_slide_without_its_black(method: Method, share: float) -> None:
    padded = tissue_mask(with_black(PLAIN, share), method=method, min_object=64, min_hole=64)
    expected = tissue_mask(PLAIN, method=method, min_object=64, min_hole=64)
    assert np.array_equal(padded[:128, :128], expected)
    assert padded.sum() == expected.sum()


@pytest.mark.parametrize("black", [0.3, 0.9])
def test_a_small_biopsy_on_white_is_found_beside_black(black: float) -> None:
    view = np.full((512, 512, 3), 255, np.uint8)
    view[200:264, 200:264] = PLAIN[32:96, 32:96]
    slide = prepared(with_black(view, black))
    assert len(slide.tissue) == len(prepared(view).tissue) > 50
    assert slide.view_shares["black"] == pytest.approx(black, abs=0.01)
    assert any("of the view is black" in note for note in slide.notes)
    assert not prepared(view).notes


def test_transparent_is_blank(tmp_path: Path) -> None:
    opaque = np.full((256, 256), 255, np.uint8)
    opaque[:, 192:] = 0
    view = section(side=256)[0]

    tifffile.imwrite(
        tmp_path / "a.tif",
        np.dstack([view, opaque]),
        tile=(64, 64),
        photometric="rgb",
        extrasamples=["unassalpha"],
    )
    with open_slide(tmp_path / "a.tif") as slide:
        pixels = slide.read((0, 0), slide.size)
    shares = prepared(pixels).view_shares
    assert shares["blank"] == pytest.approx(0.25, abs=0.01)
    assert sum(shares.values()) == pytest.approx(1)


def blank() -> np.ndarray:
    return np.full((128, 128, 3), 255, np.uint8)


def glass_and_black() -> np.ndarray:
    view = np.full((128, 128, 3), 243, np.uint8)
    view[:, 28:] = 0
    return view


def glow() -> np.ndarray:
    view = np.full((128, 128, 3), 3, np.uint8)
    view[40:80, 40:80] = 20, 30, 220
    return view


def specks() -> np.ndarray:
    view = np.full((128, 128, 3), 243, np.uint8)
    view[::8, ::8] = 200, 110, 170
    return view


@pytest.mark.parametrize(
    ("view", "shown", "remedy"),
    [
        (blank(), "100.0% blank", "transparent, not scanned or overexposed"),
        (glass_and_black(), "21.9% glass, 0.0% pen, 78.1% black", "bright-field stain"),
        (glow(), "black", "as fluorescence is; a bright-field stain is needed"),
        (specks(), "100.0% glass", "tissue.min_object"),
    ],
    ids=["blank", "glass and black", "fluorescence", "specks"],
)
@pytest.mark.parametrize("levels", [1, 2])
def test_no_tissue_says_what_there_is_and_what_to_do(
    view: np.ndarray, shown: str, remedy: str, levels: int
) -> None:
    with pytest.raises(NoTissueError) as caught:
        prepared(view, f"attention.levels={levels}")
    assert "'made'" in str(caught.value)
    if levels == 1:
        assert shown in caught.value.message
    assert remedy in caught.value.remedy
