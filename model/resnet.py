"""Residual nets (He et al. 2015, "Deep residual learning for image recognition")."""

from __future__ import annotations

from torch import Tensor, nn

from model.blocks import BasicBlock, ConvNormAct, GlobalAveragePooling, init_he


class ResNet(nn.Module):
    """3x3 stem, stages of basic blocks, global average pooling, FC.

    Args:
        classes: number of outputs.
        norm: normalisation of all convolutions.
        widths: channels of each stage; every stage but the first halves the image.
        blocks: basic blocks per stage.
        dropout: before the FC.
    """

    def __init__(
        self,
        classes: int,
        norm: str,
        widths: tuple[int, ...],
        blocks: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, widths[0], norm=norm)
        self.stages = nn.Sequential()
        inputs = widths[0]
        for stage, width in enumerate(widths):
            layers = nn.Sequential()
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(BasicBlock(inputs, width, norm=norm, stride=stride))
                inputs = width
            self.stages.append(layers)
        self.gap = GlobalAveragePooling()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc = nn.Linear(inputs, classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to logits [N, classes]."""
        out: Tensor = self.fc(self.dropout(self.gap(self.stages(self.stem(x)))))
        return out


def resnet8(classes: int = 10, norm: str = "batch", dropout: float = 0.0) -> ResNet:
    """MLPerf Tiny's image classification net (Banbury et al. 2021): 78k parameters."""
    return ResNet(classes, norm, (16, 32, 64), 1, dropout)


def resnet20(classes: int = 10, norm: str = "batch", dropout: float = 0.0) -> ResNet:
    """He et al. 2015, section 4.2, n = 3, with projecting shortcuts: 0.27 M parameters."""
    return ResNet(classes, norm, (16, 32, 64), 3, dropout)


def resnet18(classes: int = 10, norm: str = "batch", dropout: float = 0.0) -> ResNet:
    """ResNet-18 with a 3x3 stem and no max pooling, as usual on CIFAR: 11.2 M parameters."""
    return ResNet(classes, norm, (64, 128, 256, 512), 2, dropout)
