"""`Attend`: from a prepared slide to the attention that its tiles are drawn from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsi_ats.attention.blockwise import cell_channels, cell_logits, single
from wsi_ats.attention.levels import SlideAttention, TwoLevelAttention
from wsi_ats.attention.networks import ConvAttention, PretrainedAttention
from wsi_ats.cache import TileCache
from wsi_ats.config import Config
from wsi_ats.features.fingerprint import fingerprint
from wsi_ats.lowres.patient import Prepared
from wsi_ats.lowres.prepare import PreparedSlide
from wsi_ats.sampling import smooth, uniform_attention


@dataclass(frozen=True, eq=False)
class Attend:
    """The attention networks of a model, ready to attend to slides."""

    network: ConvAttention
    """The network that gives the logit of each cell of the view."""
    region_network: ConvAttention | None
    """The network that gives the logit of each region of the coarse view; None with one level of attention."""
    config: Config
    cache: TileCache
    """The cache of the pixels of regions, and of what fixed layers make of a view."""

    def __call__(self, slide: Prepared, *, uniform: bool = False) -> SlideAttention:
        """Attention over the tissue cells of a slide, or of all slides of a patient; `uniform`: as if the networks had
        no opinion."""
        if slide.slides[0].regions is None:
            return SlideAttention(slide, self._uniform(slide) if uniform else self._of_cells(slide))
        return TwoLevelAttention(
            slide,
            self._of_regions(slide, uniform=uniform),
            None if uniform else self.network,
            smoothing=self.config.attention.smoothing,
            tiles_per_region=self.config.regions.tiles,
            cache=self.cache if self.cache.max_bytes else None,
        )

    def channels(self, slide: PreparedSlide) -> Float[Tensor, "K d"]:
        """Channels (K, D) that the fixed layers of a pretrained network see in the tissue cells, cached or made now."""
        net, device = self.network, next(self.network.parameters()).device
        assert isinstance(net, PretrainedAttention)

        def make(_: list[int]) -> np.ndarray:
            block = self.config.view.block
            seen = cell_channels(
                net, slide.view_reader, slide.view.grid, slide.tissue, block, slide.stain_table
            )
            return seen.cpu().numpy()[None]

        made_by = ("channels", fingerprint(net.body), device.type, slide.view.frame, _digest(slide))
        return torch.from_numpy(self.cache.get_or_make([slide.key(0, *made_by, stored=True)], make)[0]).to(
            device
        )

    def _of_cells(self, slide: Prepared) -> Float[Tensor, " K"]:
        """Log-attention over the tissue cells: of a patient, one distribution over those of all slides."""
        logits = torch.cat([self._cell_logits(one) for one in slide.slides])
        return smooth(torch.log_softmax(logits, 0), self.config.attention.smoothing)

    def _cell_logits(self, slide: PreparedSlide) -> Float[Tensor, " K"]:
        if isinstance(self.network, PretrainedAttention):
            return single(self.network.logits_from_channels(self.channels(slide)))
        return self._logits(self.network, slide)

    def _of_regions(self, slide: Prepared, *, uniform: bool) -> Float[Tensor, " R"]:
        """Log-attention over the regions, in proportion to their tissue where the network is indifferent."""
        logits = torch.cat([self._region_logits(one, uniform=uniform) for one in slide.slides])
        log_p = torch.log_softmax(logits, 0)
        return log_p if uniform else smooth(log_p, self.config.attention.smoothing)

    def _region_logits(self, slide: PreparedSlide, *, uniform: bool) -> Float[Tensor, " R"]:
        assert slide.regions is not None
        assert self.region_network is not None
        area = torch.from_numpy(slide.regions.area).log().to(next(self.region_network.parameters()))
        return area if uniform else area + self._logits(self.region_network.at(slide.view.stride), slide)

    def _logits(self, net: ConvAttention, slide: PreparedSlide) -> Float[Tensor, " K"]:
        """Logits of the tissue cells of the slide's view."""
        block = self.config.view.block
        return cell_logits(net, slide.view_reader, slide.view.grid, slide.tissue, block, slide.stain_table)

    def _uniform(self, slide: Prepared) -> Float[Tensor, " K"]:
        return uniform_attention(len(slide.tissue)).to(next(self.network.parameters()).device)


def _digest(slide: PreparedSlide) -> str:
    """Digest of all that decides what a network is shown of a view, beside its pixels."""
    stain = b"" if slide.stain_table is None else slide.stain_table.tobytes()
    return hashlib.blake2b(slide.tissue.tobytes() + stain, digest_size=16).hexdigest()
