from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.helpers import shared_data
from wsi_ats.errors import ConfigError, ModelError
from wsi_ats.features.mobilenet import MobileNetV1

WEIGHTS = "weights-mobilenet-v1/mobilenet_v1_1.0_224_through_conv_pw_12.npz"
WIDTHS = [32, 64, 128]  # of conv1, conv_pw_1, conv_pw_2


def random_weights() -> dict[str, np.ndarray]:
    """Arrays under Keras's names for the first two blocks."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}

    def layer(name: str, kernel: str, *shape: int) -> None:
        arrays[f"{name}/{kernel}"] = rng.normal(0, 0.3, shape).astype(np.float32)
        out = shape[2] if kernel == "depthwise_kernel" else shape[3]
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            arrays[f"{name}_bn/{part}"] = rng.uniform(0.2, 1.5, out).astype(np.float32)

    layer("conv1", "kernel", 3, 3, 3, WIDTHS[0])
    for i, (channels, out) in enumerate(itertools.pairwise(WIDTHS), 1):
        layer(f"conv_dw_{i}", "depthwise_kernel", 3, 3, channels, 1)
        layer(f"conv_pw_{i}", "kernel", 1, 1, channels, out)
    return arrays


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int, depthwise: bool) -> np.ndarray:
    """(h, w, c) by (kh, kw, in, out): padded by 1 all round with stride 1, right and bottom with stride 2."""
    kh, kw = kernel.shape[:2]
    pad = (0, 1) if stride == 2 else (kh // 2, kh // 2)
    x = np.pad(x, (pad, pad, (0, 0)))
    rows, cols = (x.shape[0] - kh) // stride + 1, (x.shape[1] - kw) // stride + 1
    out = np.zeros((rows, cols, kernel.shape[2] if depthwise else kernel.shape[3]))
    for i in range(rows):
        for j in range(cols):
            window = x[i * stride : i * stride + kh, j * stride : j * stride + kw]
            out[i, j] = (
                (window * kernel[..., 0]).sum((0, 1))
                if depthwise
                else np.einsum("ijc,ijco->o", window, kernel)
            )
    return out


def oracle(arrays: dict[str, np.ndarray], image: np.ndarray, blocks: int) -> np.ndarray:
    """Activations (r, c, D) of an (h, w, 3) image in [0, 1], layer by layer, normalisation not folded in."""

    def layer(x: np.ndarray, name: str, stride: int) -> np.ndarray:
        depthwise = "_dw_" in name
        kernel = arrays[f"{name}/{'depthwise_kernel' if depthwise else 'kernel'}"].astype(np.float64)
        y = convolve(x, kernel, stride, depthwise)
        gamma, beta, mean, variance = (
            arrays[f"{name}_bn/{part}"].astype(np.float64)
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return np.clip((y - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0, 6)

    x = layer(2 * image - 1, "conv1", 2)
    for i in range(1, blocks + 1):
        x = layer(x, f"conv_dw_{i}", 2 if i in (2, 4, 6, 12) else 1)
        x = layer(x, f"conv_pw_{i}", 1)
    return x


def as_tiles(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)[None]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    np.savez(tmp_path / "weights.npz", **random_weights())  # type: ignore[arg-type]
    return tmp_path / "weights.npz"


@pytest.mark.parametrize("size", [(8, 8), (12, 10), (9, 11)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_activations_equal_keras_semantics_written_out(
    weights: Path, blocks: int, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).random((*size, 3))
    found = MobileNetV1(weights, f"conv_pw_{blocks}").activations(as_tiles(image))
    expected = oracle(random_weights(), image, blocks).transpose(2, 0, 1)
    assert found.shape[1:] == expected.shape
    assert found[0].detach().numpy() == pytest.approx(expected, abs=1e-4)
    assert 0.1 < float((found > 0).float().mean()) < 1.0


def test_features_are_pooled_unit_vectors_of_each_tile(weights: Path) -> None:
    net = MobileNetV1(weights, "conv_pw_2")
    tiles = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    vectors = net(tiles)
    assert vectors.shape == (40, net.dim) == (40, 128)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0] * 40, abs=1e-5)
    means = net.activations(tiles).mean((2, 3))
    assert torch.allclose(vectors, means / means.norm(dim=1, keepdim=True), atol=1e-5)
    assert torch.allclose(net(tiles[17:18])[0], vectors[17], atol=1e-5)
    assert net(tiles[:0]).shape == (0, 128)


def test_frozen_by_default_and_trainable_on_request(weights: Path) -> None:
    tiles = torch.rand(2, 3, 16, 16, requires_grad=True)
    net = MobileNetV1(weights, "conv_pw_1")
    assert net.frozen
    assert not any(p.requires_grad for p in net.parameters())
    assert not net(tiles).requires_grad
    tuned = MobileNetV1(weights, "conv_pw_1", frozen=False)
    assert not tuned.frozen
    tuned(tiles).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in tuned.parameters())
    assert torch.allclose(tuned(tiles), net(tiles), atol=1e-6)


def test_a_saved_network_needs_no_weights_file(weights: Path) -> None:
    net, other = MobileNetV1(weights, "conv_pw_2"), MobileNetV1(None, "conv_pw_2")
    tiles = torch.rand(1, 3, 16, 16)
    assert not torch.allclose(net(tiles), other(tiles), atol=1e-3)
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(tiles), other(tiles))


# -- files that will not do


@pytest.mark.parametrize("name", ["conv_pw_2/kernel", "conv_dw_1/depthwise_kernel", "conv1_bn/moving_mean"])
def test_a_missing_or_misshapen_array_is_named_with_its_file(tmp_path: Path, name: str) -> None:
    arrays, path = random_weights(), tmp_path / "slim.npz"
    good = arrays.pop(name)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=rf"slim\.npz lacks '{name}'"):
        MobileNetV1(path, "conv_pw_2")
    np.savez(path, **arrays, **{name: good[..., 1:]})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=rf"'{name}' in .*slim\.npz has shape \(.*, not \({good.shape[0]}"):
        MobileNetV1(path, "conv_pw_2")


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    text, bare, pickled = tmp_path / "text.npz", tmp_path / "bare.npz", tmp_path / "pickled.npz"
    text.write_text("not an archive")
    with bare.open("wb") as file:
        np.save(file, np.zeros(3))
    np.savez(pickled, **{"conv1/kernel": np.array([{}], dtype=object)})  # type: ignore[arg-type]
    for path in (text, bare, pickled, tmp_path / "absent.npz"):
        with pytest.raises(ModelError, match=path.name):
            MobileNetV1(path)


def test_a_truncated_file_is_refused(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-2000])
    with pytest.raises(ModelError, match=r"weights\.npz"):
        MobileNetV1(weights, "conv_pw_2")


@pytest.mark.parametrize("layer", ["conv_pw_0", "conv_pw_13", "conv_dw_3", ""])
def test_unknown_layers_are_refused(layer: str) -> None:
    with pytest.raises(ConfigError, match="conv_pw_11"):
        MobileNetV1(None, layer)


# -- the ImageNet weights, where they are


def test_panda_through_every_layer() -> None:
    path = shared_data(WEIGHTS)
    with Image.open(shared_data("weights-mobilenet-v1/panda.jpg")) as file:
        image = np.asarray(file.convert("RGB").resize((48, 48)), dtype=np.float64) / 255
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    net = MobileNetV1(path)
    assert net.dim == 512
    found = net.activations(as_tiles(image))
    assert found.shape == (1, 512, 3, 3)
    assert found[0].numpy() == pytest.approx(oracle(arrays, image, 11).transpose(2, 0, 1), abs=1e-3)
    assert 0.05 < float((found > 0).float().mean()) < 0.9
    assert torch.equal(net(as_tiles(image)), net(as_tiles(image)))
    assert MobileNetV1(path, "conv_pw_12").dim == 1024


def test_a_linear_probe_tells_tumour_from_benign_colon() -> None:
    folder = shared_data("colon-tiles")
    net = MobileNetV1(shared_data(WEIGHTS))
    with (folder / "tiles.csv").open() as file:
        rows = list(csv.DictReader(file))

    def split(name: str, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        some = [row for row in rows if row["split"] == name][::step]
        images = [Image.open(folder / row["file"]).convert("RGB").resize((112, 112)) for row in some]
        pixels = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2)
        return net(pixels.float() / 255), torch.tensor([row["label"] == "tumour" for row in some])

    (x, y), (x_val, y_val) = split("train", 8), split("val", 3)
    assert min(int(y.sum()), int((~y).sum()), int(y_val.sum()), int((~y_val).sum())) > 30
    w, mean = torch.zeros(net.dim, requires_grad=True), x.mean(0)
    optimiser = torch.optim.LBFGS([w], max_iter=50)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(8 * (x - mean) @ w, y.float())
        value = value + 1e-3 * (w**2).sum()
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    scores = ((x_val - mean) @ w).detach()
    auc = (scores[y_val][:, None] > scores[~y_val]).float().mean()
    assert float(auc) > 0.99
