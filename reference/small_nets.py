"""The small adversarially trained CIFAR-10 networks of alpha-beta-CROWN, names as in their files.

resnet2b, resnet4b: residual blocks without BatchNorm; cnn_a, conv_small: two convolutions and two matrices.
Input in [0, 1], normalised inside; images are 32x32, 10 classes.
"""
import torch
from torch import nn
from torch.nn import functional as F

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
# cnn_a and conv_small come without a statement; this deviation fits their accuracy best.
CNN_STD = [0.2023, 0.1994, 0.201]


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1)
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride))
        else:
            self.shortcut = nn.Identity()

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A 3x3 convolution of stride 2, `stages` pairs of blocks (the first of stride 2), two matrices."""

    def __init__(self, channels, stages, mean, std):
        super().__init__()
        wide = 2 * channels
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, channels, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(channels, wide, 2), Block(wide, wide, 1))
        self.layer2 = nn.Sequential(Block(wide, wide, 2), Block(wide, wide, 1)) if stages == 2 else nn.Identity()
        side = 32 // 2 ** (1 + stages)
        self.linear1 = nn.Linear(wide * side * side, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x):
        h = F.relu(self.conv1((x - self.mean) / self.std))
        h = self.layer2(self.layer1(h))
        return self.linear2(F.relu(self.linear1(h.flatten(1))))


class SmallCnn(nn.Sequential):
    """Two 4x4 convolutions of stride 2, two matrices."""

    def __init__(self, padding, mean, std):
        side = 8 if padding == 1 else 6
        super().__init__(
            nn.Conv2d(3, 16, 4, 2, padding), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, padding), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * side * side, 100), nn.ReLU(), nn.Linear(100, 10),
        )
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x):
        return super().forward((x - self.mean) / self.std)


def small_net(arch, mean, std):
    """arch: resnet2b, resnet4b, cnn_a or conv_small. x [B, 3, 32, 32] in [0, 1] -> logits [B, 10]."""
    if arch == 'resnet2b':
        return SmallResNet(8, 1, mean, std)
    if arch == 'resnet4b':
        return SmallResNet(16, 2, mean, std)
    if arch in ('cnn_a', 'conv_small'):
        return SmallCnn(1 if arch == 'cnn_a' else 0, mean, std)
    raise ValueError(f'arch must be resnet2b, resnet4b, cnn_a or conv_small, got {arch!r}')
