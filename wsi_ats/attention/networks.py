"""Attention networks: a low-resolution view of the slide -> one logit per grid cell.

The view's border: outside the slide there is white glass, so the view is padded with white by the network's
whole receptive field (`halo`), and what the padding of single layers made is cut off. A logit then depends on
the pixels within `halo` of its cell and on nothing else: a cell at the border sees what it would see on a
larger slide with more glass around, and a view worked through in blocks (block + halo, `blockwise.py`) gives
the numbers of the view as a whole.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional as F

from wsi_ats.attention.receptive import Reach, reach_of
from wsi_ats.errors import ConfigError

LEAST_SPREAD = 1e-3
"""Channels of a pretrained body that vary less than this are not blown up."""
Halo = tuple[int, int, int, int]
"""View px around a block: left, right, top, bottom, in the order of `torch.nn.functional.pad`."""


class ConvAttention(nn.Module):
    """Convolutions on the view, averaged over the `stride` x `stride` px of each cell, then layers per cell.

    `body` is made of convolutions (any kernel, stride, dilation, padding), pooling and pointwise layers; where it
    takes strides itself, what is left of `stride` is averaged. `head` maps the averaged channels to one logit.
    `background` is the grey value in [0, 1] of what lies outside the view. Raises `ConfigError`, naming the
    layer, where it cannot be told what a layer sees.
    """

    halo: Halo
    """Number of view px around a cell that its logit depends on."""

    def __init__(self, body: nn.Sequential, head: nn.Module, stride: int, background: float = 1.0) -> None:
        super().__init__()
        if stride < 1:
            raise ConfigError(f"attention stride of {stride} view px per cell", "use a stride of at least 1")
        self.stride = stride
        self.background = background
        self.body = body
        self.head = head
        seen = reach_of(body, name="body")
        if any(stride % step for step in seen.step):
            raise ConfigError(
                f"attention stride of {stride} view px per cell, and the body takes strides of {seen.step} px (y, x)",
                "let the strides of the network divide the attention stride",
            )
        self._pool = (stride // seen.step[0], stride // seen.step[1])
        seen = reach_of(head, seen.then(self._pool, self._pool, (0, 0)), name="head")
        if seen.step != (stride, stride):
            raise ConfigError(
                f"the head of the attention network takes strides: {seen.step} view px (y, x) instead of {stride}",
                "take strides in the body; there is one logit a cell",
            )
        (top, bottom, self._skip_y), (left, right, self._skip_x) = (_margins(seen, axis) for axis in (0, 1))
        self.halo = (left, right, top, bottom)
        self._extra = (self._skip_x * stride - seen.pad[1], 0, self._skip_y * stride - seen.pad[0], 0)

    def at(self, stride: int) -> ConvAttention:
        """This network, with the same layers and weights, for cells of `stride` view px."""
        return self if stride == self.stride else ConvAttention(self.body, self.head, stride, self.background)

    def forward(self, view: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b rows cols"]:
        """Logits (B, H / stride, W / stride) of views (B, C, H, W) in [0, 1]."""
        h, w = view.shape[-2:]
        if h % self.stride or w % self.stride or not h * w:
            raise ConfigError(
                f"a view of {w} x {h} px does not divide into cells of {self.stride} view px",
                "read the view with the attention network's stride",
            )
        return self.valid(F.pad(view, self.halo, value=self.background))

    def valid(self, block: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b rows cols"]:
        """Logits of a block that already carries `halo` px of its surroundings, or of glass, all round."""
        return self._inside(self.head(self._pooled(block)), block).squeeze(1)

    def _pooled(self, block: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d y x"]:
        """Channels of the body, averaged over cells."""
        # A shift that lets the outputs of padded layers fall on the cells; they see nothing of it.
        block = (F.pad(block, self._extra) if any(self._extra) else block).sub(0.5).div_(0.25)
        return F.avg_pool2d(self.body(block), self._pool)

    def _inside(
        self, maps: Float[torch.Tensor, "b d y x"], block: Float[torch.Tensor, "b c h w"]
    ) -> Float[torch.Tensor, "b d rows cols"]:
        """The cells of the block alone, without those before them that the padding of layers made."""
        left, right, top, bottom = self.halo
        rows = (block.shape[-2] - top - bottom) // self.stride
        cols = (block.shape[-1] - left - right) // self.stride
        return maps[..., self._skip_y : self._skip_y + rows, self._skip_x : self._skip_x + cols]


class PaperAttention(ConvAttention):
    """The paper's network: 3x3 convolutions with 8, 8 and 1 channels, tanh between them.

    The paper has one cell per view pixel; for `stride` > 1 the logits are averaged over the cell. `channels` is 1
    for grey views.
    """

    def __init__(self, stride: int = 1, background: float = 1.0, channels: int = 3) -> None:
        last = _flat(nn.Conv2d(8, 1, 3, bias=False))
        body = nn.Sequential(
            _lively(nn.Conv2d(channels, 8, 3)), nn.Tanh(), _lively(nn.Conv2d(8, 8, 3)), nn.Tanh(), last
        )
        super().__init__(body, nn.Identity(), stride, background)


class WideAttention(ConvAttention):
    """The default: two 3x3 convolutions of `width` channels with leaky ReLU, averaged over the cell, then 1x1.

    Leaky, because the first, noisy steps can push every plain ReLU below zero, and attention then stays flat forever.
    """

    def __init__(self, stride: int, width: int = 16, background: float = 1.0) -> None:
        first, second = _lively(nn.Conv2d(3, width, 3)), _lively(nn.Conv2d(width, width, 3))
        body = nn.Sequential(first, nn.LeakyReLU(0.1), second, nn.LeakyReLU(0.1))
        super().__init__(body, _flat(nn.Conv2d(width, 1, 1, bias=False)), stride, background)


class DeepAttention(ConvAttention):
    """Three 3x3 convolutions of `width` / 2, `width`, `width` channels, averaged over the cell, and two 1x1; all leaky.

    The first takes every second px where the stride is even, so that it costs a third of the wide one. Shown where the
    tumour is on slides of real tissue, it found more of it on other slides than the wide one did.
    """

    def __init__(self, stride: int, width: int = 16, background: float = 1.0) -> None:
        first = nn.Conv2d(3, max(1, width // 2), 3, stride=1 if stride % 2 else 2)
        rest = nn.Conv2d(first.out_channels, width, 3), nn.Conv2d(width, width, 3)
        body = nn.Sequential(
            *(part for layer in (first, *rest) for part in (_lively(layer), nn.LeakyReLU(0.1)))
        )
        head = nn.Sequential(
            _lively(nn.Conv2d(width, width, 1)), nn.LeakyReLU(0.1), _flat(nn.Conv2d(width, 1, 1, bias=False))
        )
        super().__init__(body, head, stride, background)


class PretrainedAttention(ConvAttention):
    """The first layers of a network that was pretrained on other pictures, kept fixed, and two 1x1 that learn.

    What a few hundred slide labels teach a network of its own is the kinds of tumour that it was shown; general
    features find other kinds, too. `body` (unpadded convolutions, `channels` of them in the end) never changes, so
    what it makes of a slide can be kept (`blockwise.cell_channels`), and an epoch costs next to nothing. The first
    layer behind it brings the channels to mean 0 and variance 1 (`standardise`); `width`: channels between the 1x1.
    """

    def __init__(
        self, body: nn.Sequential, channels: int, stride: int, width: int = 16, background: float = 1.0
    ) -> None:
        even = nn.Conv2d(channels, channels, 1, groups=channels)
        even.load_state_dict({"weight": torch.ones_like(even.weight), "bias": torch.zeros(channels)})
        first, last = _lively(nn.Conv2d(channels, width, 1)), _flat(nn.Conv2d(width, 1, 1, bias=False))
        super().__init__(body, nn.Sequential(even, first, nn.LeakyReLU(0.1), last), stride, background)
        body.requires_grad_(False)
        even.requires_grad_(False)
        self.channels = channels

    @torch.no_grad()
    def standardise(self, seen: Float[torch.Tensor, "M d"]) -> None:
        """Bring the channels of M cells, of several slides, to mean 0 and variance 1."""
        spread, mean = torch.std_mean(seen, 0)
        scale = 1 / spread.clamp(min=LEAST_SPREAD)
        assert isinstance(self.head, nn.Sequential)
        self.head[0].load_state_dict({"weight": scale.view(-1, 1, 1, 1), "bias": -mean * scale})

    def channels_of(self, block: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b d rows cols"]:
        """Channels that the body makes of each cell of a block that carries its halo: `valid` without the head."""
        return self._inside(self._pooled(block), block)

    def logits_from_channels(self, seen: Float[torch.Tensor, "K d"]) -> Float[torch.Tensor, " K"]:
        """Logits (K,) of cells, from the channels (K, D) that the body saw in them."""
        logits: torch.Tensor = self.head(seen.unsqueeze(-1).unsqueeze(-1))
        return logits.flatten()


def log_attention(
    logits: Float[torch.Tensor, "rows cols"], cells: Int[torch.Tensor, " K"]
) -> Float[torch.Tensor, " K"]:
    """Log-attention (K,): log-softmax of the logits over tissue cells alone; `cells` are flat, row * cols + col."""
    return torch.log_softmax(logits.reshape(-1)[cells], 0)


def _margins(seen: Reach, axis: int) -> tuple[int, int, int]:
    """View px seen before and behind a cell along an axis, and outputs to skip that the layers' padding made."""
    spare = max(seen.size[axis] - seen.step[axis], 0)
    return spare // 2, spare - spare // 2, -(-seen.pad[axis] // seen.step[axis])


def _flat(layer: nn.Conv2d) -> nn.Conv2d:
    """Zero weights: attention starts uniform. There is no bias, since softmax does not see a constant."""
    nn.init.zeros_(layer.weight)
    return layer


def _lively(layer: nn.Conv2d) -> nn.Conv2d:
    """Weights after He et al. (2015): 47 of 48 small trainings found what was planted, 43 with smaller ones."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
