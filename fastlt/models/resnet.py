"""ResNet and ResNeXt as the paper uses them, with torchvision's state-dict keys, strides and initialisation.

Sources: He et al., Deep Residual Learning (2016); Xie et al., Aggregated Residual Transformations (2017). The stride of
a bottleneck sits on its 3x3 convolution, as in torchvision.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .batch_norm import Branches, branches, norm_join, norm_relu
from .head import LinearHead
from .network import Network, cut


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """The shape of one network.

    `small_images` replaces the 7x7 stride-2 stem and its pooling (a factor of 4) by one 3x3 convolution of stride 2.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = True
    groups: int = 1
    width_per_group: int = 64
    small_images: bool = False


SPECS = {
    "resnet8": ResNetSpec(blocks=(1, 1, 1), widths=(32, 64, 128), bottleneck=False, small_images=True),
    "resnet10": ResNetSpec(blocks=(1, 1, 1, 1), bottleneck=False),
    "resnet50": ResNetSpec(blocks=(3, 4, 6, 3)),
    "resnet101": ResNetSpec(blocks=(3, 4, 23, 3)),
    "resnet152": ResNetSpec(blocks=(3, 8, 36, 3)),
    "resnext50_32x4d": ResNetSpec(blocks=(3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_32x4d": ResNetSpec(blocks=(3, 4, 23, 3), groups=32, width_per_group=4),
    "resnext152_32x4d": ResNetSpec(blocks=(3, 8, 36, 3), groups=32, width_per_group=4),
}


def conv(num_in: int, num_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a padded convolution without bias."""
    return nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, num_in: int, width: int, stride: int, spec: ResNetSpec, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = conv(num_in, width, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, images: Tensor | Branches) -> Tensor | Branches:
        """Map [B, in, H, W] to [B, width, H / stride, W / stride]."""
        x, shortcut = branches(images)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x = norm_relu(self.bn1, self.conv1(x))
        return norm_join(self.bn2, self.conv2(x), shortcut)


class Bottleneck(nn.Module):
    """1x1, (grouped) 3x3 and 1x1 convolutions and a shortcut; the stride is on the 3x3."""

    expansion = 4

    def __init__(self, num_in: int, width: int, stride: int, spec: ResNetSpec, downsample: nn.Module | None) -> None:
        super().__init__()
        inner = int(width * spec.width_per_group / 64) * spec.groups
        self.conv1 = conv(num_in, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride=stride, groups=spec.groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = downsample

    def forward(self, images: Tensor | Branches) -> Tensor | Branches:
        """Map [B, in, H, W] to [B, 4 width, H / stride, W / stride]."""
        x, shortcut = branches(images)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x = norm_relu(self.bn1, self.conv1(x))
        x = norm_relu(self.bn2, self.conv2(x))
        return norm_join(self.bn3, self.conv3(x), shortcut)


class ResNet(Network):
    """A residual network with a linear head `fc`.

    Args:
        spec: The shape of the network.
        num_classes: Number of classes, C.
    """

    def __init__(self, spec: ResNetSpec, num_classes: int) -> None:
        super().__init__()
        block = Bottleneck if spec.bottleneck else BasicBlock
        width = spec.widths[0]
        if spec.small_images:
            self.conv1 = conv(3, width, 3, stride=2)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = conv(3, width, 7, stride=2)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.num_stages = len(spec.blocks)
        for stage, (num_blocks, out) in enumerate(zip(spec.blocks, spec.widths, strict=True)):
            layers: list[nn.Module] = []
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                expanded = out * block.expansion
                downsample = None
                if stride > 1 or width != expanded:
                    downsample = nn.Sequential(conv(width, expanded, 1, stride=stride), nn.BatchNorm2d(expanded))
                layers.append(block(width, out, stride, spec, downsample))
                width = expanded
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_features = width
        self.fc = LinearHead.initialised(num_classes, width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # N(0, sqrt(2 / (k * k * out))): fan-out over the whole kernel, as in the paper's code
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Map images to features.

        Args:
            images: [B, 3, H, W].

        Returns:
            [B, D].
        """
        x = self.maxpool(norm_relu(self.bn1, self.conv1(images)))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        features: Tensor = self.avgpool(branches(x).main).flatten(1)
        return features

    def stages(self) -> list[nn.Module]:
        """Return the stem and the stages; pooling is part of the last one."""
        children = [(name, module) for name, module in self.named_children() if module is not self.fc]
        starts = [at for at, (name, _) in enumerate(children) if name.startswith("layer")]
        return cut([module for _, module in children], starts)
