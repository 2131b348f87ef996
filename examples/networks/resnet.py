"""Residual networks of R003 Table 1: ResNet-32 and WRN-16-8 for 32x32 images, ResNet-18 and -50 and WideResNet-50-2."""

from torch import Tensor, nn
from torch.nn import functional as F

# R003-26: in networks for ImageNet the first convolution and the last fully-connected layer stay digital.
DIGITAL_ENDS = "layers:\n  - {match: conv1, tile: digital}\n  - {match: fc, tile: digital}\n"


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def shortcut(inputs: int, outputs: int, stride: int, norm: bool = True) -> nn.Module:
    """Nothing where the shapes agree, else a 1x1 convolution."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(conv(inputs, outputs, 1, stride), *([nn.BatchNorm2d(outputs)] if norm else []))


class Basic(nn.Module):
    """Two 3x3 convolutions."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = shortcut(inputs, width, stride)
        self.outputs = width

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions; `wide` widens the 3x3."""

    wide = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        inner, self.outputs = width * self.wide, 4 * width
        self.conv1, self.norm1 = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = conv(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.norm3 = conv(inner, self.outputs, 1), nn.BatchNorm2d(self.outputs)
        self.shortcut = shortcut(inputs, self.outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm3(self.conv3(F.relu(self.norm2(self.conv2(y)))))
        return F.relu(y + self.shortcut(x))


class WideBottleneck(Bottleneck):
    """A bottleneck with twice the inner channels."""

    wide = 2


class PreActivated(nn.Module):
    """Two 3x3 convolutions, each behind its norm and ReLU."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.shortcut = shortcut(inputs, width, stride, norm=False)
        self.outputs = width

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.norm1(x))
        y = self.conv2(F.relu(self.norm2(self.conv1(a))))
        return y + self.shortcut(x if isinstance(self.shortcut, nn.Identity) else a)


class ResNet(nn.Module):
    """A stem, stages of blocks that halve the image, and a linear classifier on the mean over pixels."""

    def __init__(self, block: type, blocks: list[int], widths: list[int], stem: int, classes: int, large: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False) if large else conv(3, stem, 3)
        self.norm = nn.Identity() if block is PreActivated else nn.BatchNorm2d(stem)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        channels, stages = stem, []
        for i, (count, width) in enumerate(zip(blocks, widths)):
            stage = []
            for j in range(count):
                stage.append(block(channels, width, 2 if i and not j else 1))
                channels = stage[-1].outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.last = nn.BatchNorm2d(channels) if block is PreActivated else nn.Identity()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.conv1(x)))) if not isinstance(self.norm, nn.Identity) else self.conv1(x)
        x = self.stages(x)
        x = x if isinstance(self.last, nn.Identity) else F.relu(self.last(x))
        return self.fc(x.mean((2, 3)))


def resnet32() -> nn.Module:
    """For CIFAR-10, with R003's channels 16, 28, 56 and 1x1 shortcuts."""
    return ResNet(Basic, [5, 5, 5], [16, 28, 56], 16, 10, large=False)


def wrn16_8() -> nn.Module:
    """WRN-16-8 for CIFAR-100."""
    return ResNet(PreActivated, [2, 2, 2], [128, 256, 512], 16, 100, large=False)


def resnet18() -> nn.Module:
    return ResNet(Basic, [2, 2, 2, 2], [64, 128, 256, 512], 64, 1000, large=True)


def resnet50() -> nn.Module:
    return ResNet(Bottleneck, [3, 4, 6, 3], [64, 128, 256, 512], 64, 1000, large=True)


def wide_resnet50() -> nn.Module:
    return ResNet(WideBottleneck, [3, 4, 6, 3], [64, 128, 256, 512], 64, 1000, large=True)
