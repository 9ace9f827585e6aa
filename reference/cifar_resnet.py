"""ResNet-20/32/44/56 for CIFAR-10 (He et al. 2016, section 4.2), names of akamaster/pytorch_resnet_cifar10.

Shortcut A, without weights: where the width doubles, every second pixel, and zero channels on both sides.
"""
import torch
from torch import nn
from torch.nn import functional as F

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class BasicBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.grow = c_out - c_in
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x):
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.grow:
            before = self.grow // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.grow - before))
        return F.relu(h + x)


class CifarResNet(nn.Module):
    """x [B, 3, S, S] in [0, 1] -> logits [B, classes]; depth = 6n + 2."""

    def __init__(self, depth=20, num_classes=10, mean=IMAGENET_MEAN, std=IMAGENET_STD, image_size=32):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f'depth must be 6n + 2, got {depth}')
        n = (depth - 2) // 6
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[BasicBlock(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), *[BasicBlock(32, 32, 1) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), *[BasicBlock(64, 64, 1) for _ in range(n - 1)])
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(h))).mean((2, 3)))
