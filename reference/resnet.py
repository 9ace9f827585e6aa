"""torchvision's ResNet with its own names, taking images in [0, 1] and normalising them inside."""
import torch
import torchvision

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BLOCKS = {'basic': torchvision.models.resnet.BasicBlock, 'bottleneck': torchvision.models.resnet.Bottleneck}


class ResNet(torchvision.models.ResNet):
    """x [B, 3, S, S] in [0, 1] -> logits [B, classes]. resnet50 is bottleneck [3, 4, 6, 3], resnet101 [3, 4, 23, 3],
    wide_resnet50_2 is resnet50 with width_per_group 128."""

    def __init__(self, block='bottleneck', layers=(3, 4, 6, 3), width_per_group=64, num_classes=100,
                 mean=MEAN, std=STD, image_size=64):
        super().__init__(BLOCKS[block], layers, num_classes=num_classes, width_per_group=width_per_group)
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x):
        return super().forward((x - self.mean) / self.std)
