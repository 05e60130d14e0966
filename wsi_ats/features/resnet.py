"""ResNet-18, 34 and 50 (He et al., 2016, arXiv 1512.03385), with the names of torchvision's state dictionaries.

As torchvision has them: in the bottleneck blocks of ResNet-50 the stride is in the 3x3 convolution. The last
layer, which tells the classes of ImageNet, is left out.
"""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_ats.errors import ConfigError
from wsi_ats.features.encoder import Encoder, Expects
from wsi_ats.features.published import IMAGENET_MEAN, IMAGENET_STD
from wsi_ats.features.settings import FeatureSettings
from wsi_ats.features.source import fill, read_weights

_STAGES = {"resnet-18": (2, 2, 2, 2), "resnet-34": (3, 4, 6, 3), "resnet-50": (3, 4, 6, 3)}


def resnet_encoder(settings: FeatureSettings, *, pretrained: bool) -> Encoder:
    """The encoder of `settings`; without `pretrained` its weights are left for a checkpoint to fill.

    Raises `ConfigError` where weights are needed and not given, `ModelError` for a bad weights file.
    """
    network = ResNet(_STAGES[settings.network], bottleneck=settings.network == "resnet-50")
    if pretrained:
        if settings.weights is None:
            raise ConfigError(
                f"features.network is {settings.network} and features.weights is not set",
                remedy="set features.weights to a .safetensors or .pth file with torchvision's names, or choose "
                'features.network = "small-resnet", which trains from scratch',
            )
        path = Path(settings.weights)
        fill(network, read_weights(path), path, surplus=("fc.",))
    mpp = None if settings.mpp is None else (settings.mpp,)
    expects = Expects(None, mpp, settings.mean or IMAGENET_MEAN, settings.std or IMAGENET_STD)
    return Encoder(network, expects, settings, blocks=network.blocks)


class ResNet(nn.Module):
    """Normalised tiles (N, 3, h, w) of at least 32 px -> mean activations of the last stage, (N, 512 or 2048)."""

    def __init__(self, stages: tuple[int, ...], *, bottleneck: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for number, blocks in enumerate(stages):
            row = []
            for i in range(blocks):
                kind, out = (_Bottleneck, 256) if bottleneck else (_BasicBlock, 64)
                row.append(kind(channels, 64 << number, 2 if number and not i else 1))
                channels = out << number
            self.add_module(f"layer{number + 1}", nn.Sequential(*row))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    @property
    def blocks(self) -> list[nn.Module]:
        """The residual blocks of all stages, in order."""
        return [block for stage in self.children() if isinstance(stage, nn.Sequential) for block in stage]

    def forward(self, tiles: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N D"]:
        """Vectors (N, D), not of unit length."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(tiles))), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions; ResNet-18 and 34."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last to four times the width; ResNet-50."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if channels == out and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
