"""Convolutions as a CPU computes them fastest: chosen per layer, by what was measured.

Classes of layers are exchanged in place; parameters, their names and the results stay the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.device import Precision
from trainer.kernels import fused, tiles
from trainer.kernels.fused import halves, once, only_output_heard, unheard

CPU = torch.device("cpu")
TILE = 32
"""Numbers that a bf16 tile of AMX sums over at once."""
FEWEST_CHANNELS = 16
"""Of an input, with which tiles are worth filling."""


def choose_per_layer(
    net: nn.Module, device: torch.device, precision: Precision, *, kernels: bool = False
) -> None:
    """Exchange the convolutions of a net for those that suit the device, where it trains in bf16.

    Depthwise convolutions compute the gradient of their input by going forward. With kernels, and
    where there are matrix tiles, those of one group become a ``TiledConv2d``. What is left and can
    meet a shape that oneDNN gets wrong becomes a ``GuardedConv2d``.
    """
    if device.type != "cpu" or precision != "bf16":
        return
    tiled = kernels and tiles.ready()
    for layer in net.modules():
        if type(layer) is not nn.Conv2d:
            continue
        if layer.groups == layer.in_channels > 1 and _can_be_turned_round(layer):
            layer.__class__ = DepthwiseConv2d
        elif tiled and _fills_tiles(layer):
            layer.__class__ = TiledConv2d
        elif layer.stride[1] > 1 or _reorders(layer):
            layer.__class__ = GuardedConv2d


class GuardedConv2d(nn.Conv2d):
    """A convolution that is computed in fp32 where oneDNN gives wrong numbers in bf16.

    Of 25,000 shapes that were compared with fp64 (kernels to 8, strides to 4, one to 128 channels),
    both ways, these alone were wrong; none is met by square images of 4 pixels or more and kernels
    of 3. Left as they are: windows that meet no pixel at all, which end the process in fp32, too.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W'], in autocast's dtype."""
        if not (torch.is_autocast_enabled("cpu") and self.is_wrong(input)):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            exact = super().forward(input.float())
        return exact.to(torch.get_autocast_dtype("cpu"))

    def is_wrong(self, input: Tensor) -> bool:
        """Whether output or gradients would be wrong for such an input, [N, C, H, W]."""
        return _wrong_output(self, input) or _wrong_weights(self, input)


class DepthwiseConv2d(GuardedConv2d):
    """A depthwise convolution the gradient of whose input is a convolution forward.

    It is that of the output's gradient, zeros between its positions where there is a stride, with
    the kernel turned round. For 256 images of 64 channels at 16x16 oneDNN takes 0.7 ms forward, but
    1.3 for this gradient and with a stride of 2 42; so it takes 0.7 and 1.1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W'], in autocast's dtype."""
        training = torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        if not training or input.dim() != 4 or self.is_wrong(input):
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.to(dtype)
            given = input.to(dtype), self.weight.to(dtype), bias
            output: Tensor = _Depthwise.apply(*given, self)
        return output


class TiledConv2d(nn.Conv2d):
    """A convolution by kernels of the program's own (``trainer/kernels/convolutions.cpp``).

    oneDNN sums the gradient of weights along the rows of an image: a row of 7 or 15 positions
    leaves a tile half empty, and few channels the rest. Measured on two cores with AMX, output and
    both gradients: 128 images of 64 channels at 8x8 1.7 ms become 1.1, 2,000 of 64 at 15x15 75
    become 51; and what is pooled right after it is written in a quarter of its size.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W'], in autocast's dtype."""
        if not self._takes(input):
            return super().forward(input)
        return self._applied(input, pooled=False)

    def and_pool(self, pool: nn.Module, input: Tensor) -> Tensor | None:
        """pool(self(input)), or None: this cannot be one, or somebody listens to what lies between.

        The net calls it in place of both (``model.blocks.conv_pool``).
        """
        if not (self._takes_what_follows(input) and self._pools(pool, input)):
            return None
        return self._applied(input, pooled=True)

    def and_norm(
        self,
        pool: nn.Module | None,
        norm: nn.Module,
        act: nn.Module,
        input: Tensor,
        residual: Tensor | None,
    ) -> Tensor | None:
        """act(norm(pool(self(input))) + residual), or None: as ``and_pool``.

        The statistics of the norm are taken while what they are of is in the cache, and the
        gradient of its input is computed there when it is wanted: neither goes through memory.
        """
        if (
            not (isinstance(norm, fused.FusedBatchNorm2d) and self._takes_what_follows(input))
            or not (pool is None or (self._pools(pool, input) and unheard(pool)))
            or self.bias is not None
        ):
            return None
        height, width = tiles.output_size(self, input)
        if pool is not None:
            height, width = height // 2, width // 2
        shape = torch.Size((len(input), self.out_channels, height, width))
        code = norm.act_after(act, shape, residual)
        if code is None:
            return None
        with torch.autocast("cpu", enabled=False):
            how = fused.How(norm.running(), norm.eps, code, norm.parts(shape))
            given = _images(input), self.weight, residual, *norm.scaled()
            output: Tensor = _Normed.apply(*given, self, how, pool is not None)
        return output

    def _takes_what_follows(self, input: Tensor) -> bool:
        """Whether what comes after may be computed with it: nobody hears what lies between."""
        gradient = tiles.give_input_gradient(self) or not input.requires_grad
        return self._takes(input) and gradient and unheard(self)

    def _pools(self, pool: nn.Module, input: Tensor) -> bool:
        """Whether a kernel pools so what comes of such images."""
        pools = isinstance(pool, nn.MaxPool2d) and halves(pool) and only_output_heard(pool)
        return pools and min(tiles.output_size(self, input)) > 1

    def _takes(self, input: Tensor) -> bool:
        return fused.autocasts_to_bf16(CPU) and tiles.take(self, input)

    def _applied(self, input: Tensor, *, pooled: bool) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            output: Tensor = _Tiled.apply(_images(input), self.weight, self.bias, self, pooled)
        return output


class _Tiled(torch.autograd.Function):
    """Images, weight and bias of a layer; oneDNN gives the gradient of 24, 40, ... channels."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layer: nn.Conv2d,
        pooled: bool,
    ) -> Tensor:
        ctx.layer = layer
        output, where = tiles.convolved(images, weight, bias, layer, pooled=pooled)
        ctx.save_for_backward(images, weight, where)
        return output

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, where = ctx.saved_tensors
        for_images, for_weight, for_bias = ctx.needs_input_grad[:3]
        gradient = fused.like(gradients[0], images)
        layer = ctx.layer
        tiled = for_images and tiles.give_input_gradient(layer)
        of_images, of_weight = tiles.gradients(
            *(gradient, images, weight, layer, where), of_images=tiled, of_weight=for_weight
        )
        if for_images and not tiled:
            wanted = (True, False, False)
            of_images = _backward(layer, gradient, images, weight.to(images.dtype), wanted)[0]
        of_bias = gradient.float().sum((0, 2, 3)) if for_bias else None
        return of_images, of_weight, of_bias, None, None


class _Normed(torch.autograd.Function):
    """Images, weight and residual of a layer, weight and bias of the norm behind it."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        residual: Tensor | None,
        scale: Tensor | None,
        bias: Tensor | None,
        layer: nn.Conv2d,
        how: fused.How,
        pooled: bool,
    ) -> Tensor:
        moments = torch.empty(2, layer.out_channels, dtype=torch.float64)
        x, where = tiles.convolved(images, weight, None, layer, pooled=pooled, moments=moments)
        y, statistics = fused.norm_forward(x, residual, scale, bias, how, moments)
        ctx.layer, ctx.how, ctx.added = layer, how, residual is not None
        kept = fused.kept(y, residual, how.act)
        ctx.save_for_backward(images, weight, where, x, kept, scale, bias, statistics)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, where, x, y, scale, bias, statistics = ctx.saved_tensors
        x, y = fused.laid_out(x), None if y is None else fused.laid_out(y)
        for_images, for_weight = ctx.needs_input_grad[:2]
        given = fused.like(gradients[0], x), x, y, scale, bias, statistics
        found = fused.norm_backward(*given, ctx.how, added=ctx.added, later=True)
        assert found.numbers is not None
        masked = ctx.how.act == fused.RELU and not ctx.added
        of_images, of_weight = tiles.gradients(
            *(found.of_x, images, weight, ctx.layer, where),
            of_images=for_images,
            of_weight=for_weight,
            norm=tiles.Normed(x, found.numbers, masked=masked),
        )
        of_norm = found.of_weight, found.of_bias
        return of_images, of_weight, found.of_residual, *of_norm, None, None, None


class _Depthwise(torch.autograd.Function):
    """Images, weight and bias of a layer."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d
    ) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(images, weight)
        how = layer.stride, tiles.padding(layer), layer.dilation, layer.groups
        return torch.conv2d(images, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        for_images, for_weight, for_bias, _ = ctx.needs_input_grad
        of_images = of_weight = None
        if for_images:
            of_images = _turned_round(gradient, weight, images, ctx.layer)
        if for_weight:
            wanted = (False, True, False)
            of_weight = _backward(ctx.layer, gradient, images, weight, wanted)[1]
        return of_images, of_weight, gradient.sum((0, 2, 3)) if for_bias else None, None


def _images(input: Tensor) -> Tensor:
    """As the kernels take them."""
    return fused.laid_out(input.to(torch.bfloat16))


def _turned_round(gradient: Tensor, weight: Tensor, images: Tensor, layer: nn.Conv2d) -> Tensor:
    """The gradient of a depthwise convolution's images, [N, C, H, W]."""
    how = layer.dilation, layer.kernel_size, tiles.padding(layer)
    around = [d * (k - 1) - p for d, k, p in zip(*how, strict=True)]
    if max(layer.stride) > 1:
        size = [n + p - a for n, p, a in zip(images.shape[2:], how[2], around, strict=True)]
        count, channels = gradient.shape[:2]
        apart = gradient.new_zeros((count, *size, channels)).permute(0, 3, 1, 2)
        apart[:, :, :: layer.stride[0], :: layer.stride[1]] = gradient
        gradient = apart
    groups, kernel = layer.groups, layer.kernel_size
    turned = weight.reshape(groups, -1, *kernel).flip(2, 3)
    return torch.conv2d(gradient, turned, None, 1, around, layer.dilation, groups)


def _backward(
    layer: nn.Conv2d,
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, ...]:
    """Gradients of images, weight and bias."""
    stride, padding, dilation = map(list, (layer.stride, tiles.padding(layer), layer.dilation))
    how = stride, padding, dilation, False, [0, 0], layer.groups
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, *how, wanted
    )
    return found


def _can_be_turned_round(layer: nn.Conv2d) -> bool:
    """Whether no padding is wider than the kernel reaches."""
    reach = zip(tiles.padding(layer), layer.dilation, layer.kernel_size, strict=True)
    return _pads_zeros(layer) and all(p <= d * (k - 1) for p, d, k in reach)


def _fills_tiles(layer: nn.Conv2d) -> bool:
    """Whether the kernels compute it: one group, as many columns as rows of everything."""
    return (
        layer.groups == 1
        and _pads_zeros(layer)
        and layer.in_channels >= FEWEST_CHANNELS
        and layer.in_channels % (16 if max(layer.stride) > 1 else 8) == 0
        and layer.out_channels % 16 == 0
        and len(set(layer.stride)) == len(set(layer.dilation)) == 1
        and min(*layer.stride, *layer.dilation) > 0 <= min(tiles.padding(layer))  # or torch tells
    )


def _wrong_weights(layer: nn.Conv2d, input: Tensor) -> bool:
    """Whether oneDNN's bf16 gradient of the weights is made of memory that nobody wrote.

    It is where the image is narrower than the stride, so that each row has one position only, which
    begins in the padding: 3x3, stride 2, on 1x1 pixels.
    """
    return input.shape[-1] < layer.stride[1] and tiles.padding(layer)[1] > 0


def _wrong_output(layer: nn.Conv2d, input: Tensor) -> bool:
    """Whether oneDNN's bf16 output may be wrong: a strided column, or reordered weights."""
    if _reorders(layer):
        return True
    if layer.stride[1] == 1 or layer.groups == layer.in_channels == layer.out_channels:
        return False
    rows, columns = tiles.output_size(layer, input)
    return columns == 1 < rows


def _reorders(layer: nn.Conv2d) -> bool:
    """Whether few channels times the kernel's width fill whole tiles, which oneDNN mixes up."""
    channels = layer.in_channels // layer.groups
    filled = channels * layer.kernel_size[1]
    return (
        channels < TILE < filled
        and channels % 2 == filled % TILE == 0
        and (channels < TILE // 2 or tiles.padding(layer)[1] == 0)
    )


def _pads_zeros(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
