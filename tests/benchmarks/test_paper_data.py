"""The generators and loaders of benchmarks/paper, on tiny data made here."""

from __future__ import annotations

import gzip
import importlib
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from wsi_ats.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PX = 28


@pytest.fixture(scope="module", autouse=True)
def benchmarks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


def write_idx(path: Path, values: np.ndarray) -> None:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 'digits' a set: squares whose grey value tells class and set, so that a picture can be read back."""
    folder = tmp_path_factory.mktemp("mnist")
    for name, base in (("train", 100), ("t10k", 200)):
        labels = np.arange(40) % 10
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)
        digits = np.broadcast_to((base + labels)[:, None, None], (40, PX, PX))
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", digits)
    return folder


@pytest.mark.parametrize(("train", "base"), [(True, 100), (False, 200)])
def test_a_megapixel_picture_holds_three_digits_of_its_class_and_two_of_others(
    train: bool, base: int, mnist: Path
) -> None:
    pictures = importlib.import_module("paper.mnist").MegapixelMNIST(
        mnist, train=train, count=50, side=300, noise=0
    )
    for index in range(len(pictures)):
        picture = pictures[index]
        counts = Counter((picture.pixels[picture.pixels > 0].astype(int) - base).tolist())
        assert sum(counts.values()) == 5 * PX**2, "digits lie apart, and whole"
        assert counts[picture.label] == 3 * PX**2
        assert set(counts) <= set(range(10)), "from the right set"


def test_a_picture_follows_from_seed_split_and_index(mnist: Path) -> None:
    def picture(index: int, **changes: int | bool) -> np.ndarray:
        settings = {"train": True, "count": 9, "side": 200, "noise": 3, "seed": 0} | changes
        pixels: np.ndarray = (
            importlib.import_module("paper.mnist").MegapixelMNIST(mnist, **settings)[index].pixels
        )
        return pixels

    assert np.array_equal(picture(3), picture(3))
    others = [picture(4), picture(3, seed=1), picture(3, train=False)]
    assert not any(np.array_equal(picture(3), other) for other in others)


def test_labels_are_even_and_squares_hold_all_there_is(mnist: Path) -> None:
    pictures = importlib.import_module("paper.mnist").MegapixelMNIST(
        mnist, train=True, count=300, side=250, noise=4
    )
    labels = Counter(pictures[i].label for i in range(300))
    assert set(labels) == set(range(10))
    assert max(labels.values()) < 60
    picture = pictures[0]
    pixels = picture.pixels.copy()
    assert len(picture.squares) == 9
    for x, y in picture.squares:
        pixels[y : y + PX, x : x + PX] = 0
    assert not pixels.any()


def test_scribbles_are_lines() -> None:
    noise = importlib.import_module("paper.mnist").scribbles(np.random.default_rng(0))
    drawn = (noise > 0).sum((1, 2))
    assert noise.shape == (50, PX, PX)
    assert drawn.min() >= PX // 2
    assert drawn.max() <= 4 * PX
    assert noise[noise > 0].min() >= 204
    assert len({pattern.tobytes() for pattern in noise}) == 50


def test_a_wrong_idx_file_is_named(tmp_path: Path) -> None:
    read_idx = importlib.import_module("paper.mnist").read_idx
    with pytest.raises(ConfigError, match="missing"):
        read_idx(tmp_path / "missing.gz")
    path = tmp_path / "short.gz"
    path.write_bytes(gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, 9) + b"12345"))
    with pytest.raises(ConfigError, match="5 bytes"):
        read_idx(path)
    path.write_bytes(gzip.compress(b"PNG" + bytes(9)))
    with pytest.raises(ConfigError, match=r"short\.gz"):
        read_idx(path)


@pytest.fixture(scope="module")
def colon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures, every third without an epithelial nucleus."""
    folder = tmp_path_factory.mktemp("colon")
    for number in range(1, 13):
        place = folder / "Classification" / f"img{number}"
        place.mkdir(parents=True)
        Image.new("RGB", (60, 60), (number, 0, 0)).save(place / f"img{number}.bmp")
        for name in ("epithelial", "fibroblast", "inflammatory", "others"):
            empty = name == "epithelial" and number % 3 == 0
            detection = np.zeros((0, 0)) if empty else np.array([[3.5, number]])
            savemat(place / f"img{number}_{name}.mat", {"detection": detection})
    return folder


def test_colon_pictures_are_labelled_by_their_epithelial_nuclei(colon: Path) -> None:
    module = importlib.import_module("paper.colon")
    pictures = module.ColonCancer(module.picture_folders(colon))
    assert [p.pixels[0, 0, 0] for p in pictures] == list(range(1, 13)), "in the order of their numbers"
    assert [p.label for p in pictures] == [1, 1, 0] * 4
    assert module.nuclei(pictures.names[4], "others").tolist() == [[3.5, 5.0]]
    with pytest.raises(ConfigError, match="img5_mitosis"):
        module.nuclei(pictures.names[4], "mitosis")


def test_every_colon_picture_is_tested_once(colon: Path) -> None:
    module = importlib.import_module("paper.colon")
    tested = []
    for fold in range(4):
        train, test = module.ColonCancer.folds(colon, fold, 4)
        assert sorted(train.names + test.names) == sorted(module.picture_folders(colon))
        tested += test.names
    assert sorted(tested) == sorted(module.picture_folders(colon))
    with pytest.raises(ConfigError, match="fold 4 of 4"):
        module.ColonCancer.folds(colon, 4, 4)
    with pytest.raises(ConfigError, match="CRCHistoPhenotypes"):
        module.ColonCancer.folds(colon / "Classification", 0)


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of six signs, of one saturated colour each; the last digit tells the file."""
    folder = tmp_path_factory.mktemp("signs")
    for channel, name in enumerate(("50", "70", "80")):
        (folder / name).mkdir()
        for i in range(6):
            colour = [0, 0, 0]
            colour[channel] = 250 + i
            Image.new("RGB", (40, 40), tuple(colour)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("train", [True, False])
def test_scenes_show_a_sign_of_their_class_and_split(train: bool, signs: Path) -> None:
    module = importlib.import_module("paper.signs")
    prepared_slides = module.SignScenes(signs, train=train, count=24, height=240, width=320)
    values = {251, 252, 253, 254} if train else {250, 255}
    labels = []
    for index in range(24):
        prepared = prepared_slides[index]
        assert prepared.pixels.shape == (240, 320, 3)
        labels.append(prepared.label)
        pure = [
            (prepared.pixels.sum(2) == prepared.pixels[..., c]) & (prepared.pixels[..., c] >= 250)
            for c in range(3)
        ]
        seen = [c for c in range(3) if pure[c].sum() >= 7 * 7]
        assert seen == ([] if prepared.label == 3 else [prepared.label])
        for c in seen:
            assert set(prepared.pixels[pure[c]][:, c].tolist()) <= values
            assert 7**2 <= pure[c].sum() <= 24**2
    assert set(labels) == {0, 1, 2, 3}
    assert np.array_equal(prepared_slides[5].pixels, prepared_slides[5].pixels)


def test_a_class_of_one_sign_is_refused(tmp_path: Path) -> None:
    module = importlib.import_module("paper.signs")
    with pytest.raises(ConfigError, match="no sub-folders"):
        module.SignScenes(tmp_path, train=True, count=1)
    (tmp_path / "50").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "50" / "a.png")
    with pytest.raises(ConfigError, match="'50' has fewer than 2"):
        module.SignScenes(tmp_path, train=True, count=1)
