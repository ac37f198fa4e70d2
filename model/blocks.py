"""Blocks that the nets share. All tensors are [N, C, H, W]."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from model.errors import ModelError
from model.registry import NORMS


def make_norm(norm: str, channels: int) -> nn.Module:
    """Normalisation by name.

    ``batch``; ``layer``: over all channels and positions of an image, as group norm with one
    group; ``group``: groups of 8 channels or fewer (Wu & He 2018); ``none``.

    Raises:
        ModelError: unknown name.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "layer":
        return nn.GroupNorm(1, channels)
    if norm == "group":
        return nn.GroupNorm(channels // math.gcd(channels, 8), channels)
    if norm == "none":
        return nn.Identity()
    raise ModelError(f"unknown norm {norm!r}: choose {', '.join(NORMS)}")


def norm_act(
    norm: nn.Module, act: nn.Module, x: Tensor, residual: Callable[[], Tensor] | None = None
) -> Tensor:
    """act(norm(x) + residual()), [N, C, H, W].

    The residual is computed after the norm: so the layer table has them. In one piece, and then
    after the residual, where the norm has a method ``and_act`` that does it: such a norm is put in
    where it is faster. The hooks of ``act`` see what it would have given.
    """
    if (and_act := getattr(norm, "and_act", None)) is not None:
        added = None if residual is None else residual()
        done: Tensor | None = and_act(act, x, added)
        if done is not None:
            return _passed_on(act, done)
        y = norm(x)
    else:
        y = norm(x)
        added = None if residual is None else residual()
    out: Tensor = act(y if added is None else y + added)
    return out


def conv_pool(conv: nn.Module, pool: nn.Module, x: Tensor) -> Tensor:
    """pool(conv(x)), [N, C, H, W] to the pooling's shape.

    In one piece where the convolution has a method ``and_pool`` that does it: such a convolution
    is put in where it is faster. The hooks of ``pool`` see what it would have given.
    """
    if (and_pool := getattr(conv, "and_pool", None)) is not None:
        done: Tensor | None = and_pool(pool, x)
        if done is not None:
            return _passed_on(pool, done)
    out: Tensor = pool(conv(x))
    return out


def conv_norm_act(
    conv: nn.Module,
    norm: nn.Module,
    act: nn.Module,
    x: Tensor,
    residual: Callable[[], Tensor] | None = None,
    *,
    pool: nn.Module | None = None,
) -> Tensor:
    """act(norm(pool(conv(x))) + residual()), [N, C, H, W]; without ``pool`` nothing is pooled.

    In one piece where the convolution has a method ``and_norm`` that does it, else by ``conv_pool``
    and ``norm_act``. The hooks of ``act`` see what it would have given.
    """
    if (and_norm := getattr(conv, "and_norm", None)) is not None:
        added = None if residual is None else residual()
        done: Tensor | None = and_norm(pool, norm, act, x, added)
        if done is not None:
            return _passed_on(act, done)
        residual = None if added is None else partial(_same, added)
    y = conv(x) if pool is None else conv_pool(conv, pool, x)
    return norm_act(norm, act, y, residual)


def fork(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """x twice: for layers, and to be added to what they give (``fork`` of a norm that has it)."""
    if (own := getattr(norm, "fork", None)) is not None:
        first, second = own(x)
        return first, second
    return x, x


def _passed_on(layer: nn.Module, done: Tensor) -> Tensor:
    """A call of a layer with all of its hooks, but without its work."""
    layer.forward = _same
    try:
        out: Tensor = layer(done)
    finally:
        del layer.forward
    return out


def _same(x: Tensor) -> Tensor:
    return x


class ConvNormAct(nn.Module):
    """3x3 (or other odd) convolution that keeps the size at stride 1, norm, ReLU, dropout."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        norm: str,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        dropout: float = 0.0,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        bias = norm == "none"  # the norm has a bias of its own
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation=dilation, bias=bias
        )
        self.norm = make_norm(norm, outputs)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        out: Tensor = self.dropout(conv_norm_act(self.conv, self.norm, self.act, x))
        return out


class DepthwiseSeparable(nn.Module):
    """Depthwise 3x3, then pointwise 1x1 (Howard et al. 2017), norm, ReLU, dropout.

    Norm and activation come only after the pair, as in Xception. Where the number of channels
    stays, the input is added before the ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        norm: str,
        stride: int = 1,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            inputs,
            inputs,
            3,
            stride,
            padding=dilation,
            dilation=dilation,
            groups=inputs,
            bias=False,
        )
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=norm == "none")
        self.norm = make_norm(norm, outputs)
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        residual: Callable[[], Tensor] | None = None
        if self.residual:
            x, skip = fork(self.norm, x)
            residual = partial(_same, skip)
        y = self.depthwise(x)
        y = conv_norm_act(self.pointwise, self.norm, self.act, y, residual)
        out: Tensor = self.dropout(y)
        return out


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (He et al. 2015, "Deep residual learning").

    The shortcut is a 1x1 convolution with norm where size or channels change ("option B"). The
    dilation is that of the second convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        norm: str,
        stride: int = 1,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(inputs, outputs, norm=norm, stride=stride)
        self.conv2 = ConvNormAct(outputs, outputs, norm=norm, dilation=dilation, act=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = ConvNormAct(
                inputs, outputs, norm=norm, kernel=1, stride=stride, act=False
            )
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        conv, norm = self.conv2.conv, self.conv2.norm
        x, skip = fork(norm, x)
        residual = partial(self.shortcut, skip)
        y = conv_norm_act(conv, norm, self.act, self.conv1(x), residual)
        out: Tensor = self.dropout(y)
        return out


class GlobalAveragePooling(nn.Module):
    """Mean over all positions."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C]."""
        return torch.mean(x, (2, 3))


def init_he(net: nn.Module) -> None:
    """He initialisation for ReLU (He et al. 2015) of all convolutions; biases to zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
