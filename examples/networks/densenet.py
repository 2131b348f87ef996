"""DenseNet-121 of R003 Table 1: every layer of a block sees the outputs of all layers before it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dense(nn.Module):
    """A 1x1 convolution to 4 x 32 channels and a 3x3 one to 32, appended to the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    """Blocks of dense layers; between them a 1x1 convolution halves the channels and a pooling the image."""

    def __init__(self, blocks: tuple[int, ...], growth: int = 32, classes: int = 1000) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        layers: list[nn.Module] = []
        for i, count in enumerate(blocks):
            if i:
                half = nn.Conv2d(channels, channels // 2, 1, bias=False)
                layers += [nn.BatchNorm2d(channels), nn.ReLU(), half, nn.AvgPool2d(2)]
                channels //= 2
            for _ in range(count):
                layers.append(Dense(channels, growth))
                channels += growth
        self.blocks = nn.Sequential(*layers)
        self.last = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 3, 2, 1)
        return self.fc(F.relu(self.last(self.blocks(x))).mean((2, 3)))


def densenet121() -> nn.Module:
    return DenseNet((6, 12, 24, 16))
