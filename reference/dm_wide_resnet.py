"""DeepMind's WideResNet (Gowal et al. 2020, arXiv 2010.03593) with the structure and names of RobustBench's DMWideResNet.

Input in [0, 1], normalised inside; Swish; BatchNorm eps 1e-5; activation before convolution; a 1x1 shortcut on the
*activated* input where the width changes; 'SAME' padding, so that a 3x3 convolution of stride 2 pads right and bottom.
"""
import torch
from torch import nn
from torch.nn import functional as F

from wide_resnet import pooled

CIFAR10_MEAN, CIFAR10_STD = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.pad = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        self.batchnorm_0 = nn.BatchNorm2d(c_in)
        self.conv_0 = nn.Conv2d(c_in, c_out, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(c_out)
        self.conv_1 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if c_in != c_out else None

    def forward(self, x):
        h = F.silu(self.batchnorm_0(x))
        if self.shortcut is not None:
            x = self.shortcut(h)
        h = self.conv_0(F.pad(h, self.pad))
        return x + self.conv_1(F.silu(self.batchnorm_1(h)))


class BlockGroup(nn.Module):
    def __init__(self, blocks, c_in, c_out, stride):
        super().__init__()
        self.block = nn.Sequential(
            *[Block(c_in if i == 0 else c_out, c_out, stride if i == 0 else 1) for i in range(blocks)]
        )

    def forward(self, x):
        return self.block(x)


class DMWideResNet(nn.Module):
    """x [B, 3, S, S] in [0, 1] -> logits [B, classes]."""

    def __init__(self, depth=28, width=10, num_classes=10, mean=CIFAR10_MEAN, std=CIFAR10_STD, image_size=32):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f'depth must be 6n + 4, got {depth}')
        n = (depth - 4) // 6
        # Constants of the network, not of a checkpoint.
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.init_conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            BlockGroup(n, 16, 16 * width, 1),
            BlockGroup(n, 16 * width, 32 * width, 2),
            BlockGroup(n, 32 * width, 64 * width, 2),
        )
        self.batchnorm = nn.BatchNorm2d(64 * width)
        self.logits = nn.Linear(64 * width, num_classes)

    def forward(self, x):
        h = self.layer(self.init_conv((x - self.mean) / self.std))
        return self.logits(pooled(F.silu(self.batchnorm(h))))
