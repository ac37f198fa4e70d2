"""The coursework's nets: four convolution blocks C1 to C4 and an output.

Each forward reads like the net's table. A block begins with its stride; RF is the theoretical
receptive field after the block. Most channels, and most parameters, sit at low resolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.blocks import (
    BasicBlock,
    ConvNormAct,
    DepthwiseSeparable,
    GlobalAveragePooling,
    init_he,
)


class Standard(nn.Module):
    """Standard convolutions only; about 500k parameters.

    ====== ============================ ======= ===
    block  layers                       output  RF
    ====== ============================ ======= ===
    C1     3x3                          32x32²  3
    C2     3x3 stride 2, residual       48x16²  13
    C3     3x3 stride 2, residual       96x8²   33
    C4     3x3 stride 2, 3x3            128x4²  57
    output global average pooling, FC   classes
    ====== ============================ ======= ===
    """

    def __init__(self, classes: int = 10, norm: str = "batch", dropout: float = 0.0) -> None:
        super().__init__()
        self.c1 = ConvNormAct(3, 32, norm=norm)
        self.c2 = nn.Sequential(
            ConvNormAct(32, 48, norm=norm, stride=2),
            BasicBlock(48, 48, norm=norm, dropout=dropout),
        )
        self.c3 = nn.Sequential(
            ConvNormAct(48, 96, norm=norm, stride=2),
            BasicBlock(96, 96, norm=norm, dropout=dropout),
        )
        self.c4 = nn.Sequential(
            ConvNormAct(96, 128, norm=norm, stride=2),
            ConvNormAct(128, 128, norm=norm, dropout=dropout),
        )
        self.gap = GlobalAveragePooling()
        self.fc = nn.Linear(128, classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] to logits [N, classes]."""
        out: Tensor = self.fc(self.gap(self.c4(self.c3(self.c2(self.c1(x))))))
        return out


class DwsNormal(nn.Module):
    """Under 200k parameters, RF 69, one depthwise separable layer, one dilated, no max pooling.

    ====== ====================================== ======= ===
    block  layers                                 output  RF
    ====== ====================================== ======= ===
    C1     3x3, residual                          16x32²  7
    C2     3x3 stride 2, residual                 32x16²  17
    C3     3x3 stride 2, residual (dilation 2)    64x8²   45
    C4     3x3 stride 2, depthwise separable      128x4²  69
    output global average pooling, FC             classes
    ====== ====================================== ======= ===
    """

    def __init__(self, classes: int = 10, norm: str = "batch", dropout: float = 0.0) -> None:
        super().__init__()
        self.c1 = nn.Sequential(
            ConvNormAct(3, 16, norm=norm),
            BasicBlock(16, 16, norm=norm, dropout=dropout),
        )
        self.c2 = nn.Sequential(
            ConvNormAct(16, 32, norm=norm, stride=2),
            BasicBlock(32, 32, norm=norm, dropout=dropout),
        )
        self.c3 = nn.Sequential(
            ConvNormAct(32, 64, norm=norm, stride=2),
            BasicBlock(64, 64, norm=norm, dilation=2, dropout=dropout),
        )
        self.c4 = nn.Sequential(
            ConvNormAct(64, 96, norm=norm, stride=2),
            DepthwiseSeparable(96, 128, norm=norm, dropout=dropout),
        )
        self.gap = GlobalAveragePooling()
        self.fc = nn.Linear(128, classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] to logits [N, classes]."""
        out: Tensor = self.fc(self.gap(self.c4(self.c3(self.c2(self.c1(x))))))
        return out


class DwsLate(nn.Module):
    """Under 100k parameters, RF 61, two depthwise separable layers, one dilated, no FC.

    The dilated layer takes the place of the third stride: 8x8 positions are kept to the end.

    ====== ====================================== ======= ===
    block  layers                                 output  RF
    ====== ====================================== ======= ===
    C1     3x3, residual                          16x32²  7
    C2     3x3 stride 2, residual                 32x16²  17
    C3     3x3 stride 2, residual (dilation 2)    48x8²   45
    C4     depthwise separable, twice             80x8²   61
    output 1x1, global average pooling            classes
    ====== ====================================== ======= ===
    """

    def __init__(self, classes: int = 10, norm: str = "batch", dropout: float = 0.0) -> None:
        super().__init__()
        self.c1 = nn.Sequential(
            ConvNormAct(3, 16, norm=norm),
            BasicBlock(16, 16, norm=norm, dropout=dropout),
        )
        self.c2 = nn.Sequential(
            ConvNormAct(16, 32, norm=norm, stride=2),
            BasicBlock(32, 32, norm=norm, dropout=dropout),
        )
        self.c3 = nn.Sequential(
            ConvNormAct(32, 48, norm=norm, stride=2),
            BasicBlock(48, 48, norm=norm, dilation=2, dropout=dropout),
        )
        self.c4 = nn.Sequential(
            DepthwiseSeparable(48, 80, norm=norm),
            DepthwiseSeparable(80, 80, norm=norm, dropout=dropout),
        )
        self.output = nn.Conv2d(80, classes, 1)
        self.gap = GlobalAveragePooling()
        init_he(self)
        # fan-out is the number of classes here: far too large logits at the start
        nn.init.normal_(self.output.weight, std=80**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 32, 32] to logits [N, classes]."""
        out: Tensor = self.gap(self.output(self.c4(self.c3(self.c2(self.c1(x))))))
        return out
