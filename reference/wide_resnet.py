"""WideResNet (Zagoruyko & Komodakis 2016) with the structure and parameter names of RobustBench's 'Standard' model.

Input in [0, 1], no normalisation. BatchNorm eps 1e-5; activation before convolution; a 1x1 shortcut on the
*activated* input where the width changes; global average pool.
"""
import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        if c_in != c_out:
            self.convShortcut = nn.Conv2d(c_in, c_out, 1, stride, 0, bias=False)
        else:
            self.convShortcut = None

    def forward(self, x):
        h = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(h)
        h = F.relu(self.bn2(self.conv1(h)))
        return shortcut + self.conv2(h)


class NetworkBlock(nn.Module):
    def __init__(self, blocks, c_in, c_out, stride):
        super().__init__()
        self.layer = nn.Sequential(
            *[BasicBlock(c_in if i == 0 else c_out, c_out, stride if i == 0 else 1) for i in range(blocks)]
        )

    def forward(self, x):
        return self.layer(x)


def pooled(h):
    """The published avg_pool2d(8): of a last side of 9 to 15 its one whole window, else all."""
    return (F.avg_pool2d(h, 8) if 8 < h.shape[-1] < 16 else h).mean((2, 3))


class WideResNet(nn.Module):
    def __init__(self, depth=28, widen_factor=10, num_classes=10, in_channels=3, image_size=32):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f'depth must be 6n + 4, got {depth}')
        self.config = dict(depth=depth, widen_factor=widen_factor, num_classes=num_classes,
                           in_channels=in_channels, image_size=image_size)
        n = (depth - 4) // 6
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.block1 = NetworkBlock(n, 16, widths[0], 1)
        self.block2 = NetworkBlock(n, widths[0], widths[1], 2)
        self.block3 = NetworkBlock(n, widths[1], widths[2], 2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, 0, (2 / (m.kernel_size[0] ** 2 * m.out_channels)) ** 0.5)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x):
        h = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(pooled(F.relu(self.bn1(h))))
