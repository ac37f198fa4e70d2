"""Convolutions as a CPU computes them fastest: chosen per layer, by what was measured.

Classes of layers are exchanged in place; parameters, their names and the results stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainer.device import Precision, has_matrix_tiles

TILE = 32
"""Positions of a row that one bf16 tile of AMX multiplies at once."""
WIDEST = 11
"""Rows up to this width leave most of a tile empty."""
NARROWEST = 2
"""Rows up to this width do so forward, too."""
NARROWEST_OUTPUT = 5
"""Positions in a row of a strided layer's output, up to which it is narrow."""
FEWEST_CHANNELS = 48
"""With fewer channels, laying images side by side costs what it saves."""


def choose_per_layer(
    net: nn.Module, device: torch.device, precision: Precision, *, compiled: bool = False
) -> None:
    """Exchange the convolutions of a net for those that suit the device, where it trains in bf16.

    Strided depthwise convolutions compute the gradient of their input in fp32. Where there are
    matrix tiles, the others compute the gradient of their weights as ``WideConv2d`` and
    ``StridedConv2d`` do, but not in a net that is compiled: what the compiler makes of laying
    images side by side costs what it saves (``dws-normal`` lost 3 %). What is left and can meet a
    shape that oneDNN gets wrong becomes a ``GuardedConv2d``.
    """
    if device.type != "cpu" or precision != "bf16":
        return
    tiles = has_matrix_tiles() and not compiled
    for layer in net.modules():
        if type(layer) is not nn.Conv2d:
            continue
        if layer.groups == layer.in_channels > 1 and max(layer.stride) > 1 and _pads_zeros(layer):
            layer.__class__ = StridedDepthwiseConv2d
        elif tiles and _keeps_size(layer):
            layer.__class__ = WideConv2d
        elif tiles and layer.groups == 1 and min(layer.stride) > 1 and _pads_zeros(layer):
            layer.__class__ = StridedConv2d
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


class StridedDepthwiseConv2d(GuardedConv2d):
    """A depthwise convolution the gradient of whose input is computed in fp32.

    In bf16 oneDNN takes 39 ms for it (256 images, 24 channels, 32x32, stride 2), in fp32 1.3; the
    output and the gradient of the weights take as long in either.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, H', W'], in autocast's dtype."""
        if not _autocast_training() or self.is_wrong(input):
            return super().forward(input)
        how = self.stride, self.padding, self.dilation, self.groups
        return _applied(_StridedDepthwise, self, input, *how)


class WideConv2d(nn.Conv2d):
    """A convolution whose weight gradient is that of few wide images instead of many narrow ones.

    oneDNN sums the gradient along the rows of each image, a tile of the matrix unit at a time. A
    row of 7 positions fills a fifth of a tile, so narrow images are laid side by side, with as many
    zeros between them as the padding has. The same products are summed. Measured on AMX, 1,000
    images, 256 to 256 channels: 128 ms become 84 at 11x11, 88 become 42 at 7x7, 51 become 9 at 3x3;
    from 15x15 on nothing is won. At 2x2 the output and the gradient of the input are computed so as
    well: both ways the layer takes 26 ms instead of 121 on one thread.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H, W], in autocast's dtype."""
        if input.shape[3] > WIDEST or input.shape[0] == 1 or not _autocast_training():
            return super().forward(input)
        return _applied(_Wide, self, input, self.padding, self.dilation)


class StridedConv2d(GuardedConv2d):
    """A convolution with a stride whose weight gradient is one matrix product.

    Where the output is narrow, what each position saw is written into a row, and the rows of all
    images are multiplied at once ("im2col", Chellapilla et al. 2006). Measured on AMX, 128 images
    of 8x8, stride 2: 1.48 ms become 0.55 (64 to 96 channels), 22.0 become 6.0 (256 to 512). With
    an output of 8x8 little is won.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W'], in autocast's dtype."""
        if (
            input.shape[3] > NARROWEST_OUTPUT * self.stride[1]
            or not _autocast_training()
            or _wrong_output(self, input)
        ):
            return super().forward(input)
        how = self.stride, self.padding, self.dilation, self.groups
        return _applied(_Windows, self, input, *how)


class _Wide(torch.autograd.Function):
    """Convolution of stride 1; the gradient of its weights is computed on wide images."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding, ctx.dilation, ctx.groups = (1, 1), padding, dilation, 1
        width, gap = images.shape[3], padding[1]
        if width > NARROWEST:
            return torch.conv2d(images, weight, bias, 1, padding, dilation)
        together = images_in_a_row(width + gap)
        wide = torch.conv2d(side_by_side(images, together, gap), weight, bias, 1, padding, dilation)
        return apart(wide, together, images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        for_images, for_weight, *_ = ctx.needs_input_grad
        of_images = of_weight = None
        width, gap = images.shape[3], ctx.padding[1]
        together = images_in_a_row(width + gap)
        narrowest = width <= NARROWEST
        if for_images and not narrowest:
            of_images = _backward(ctx, gradient, images, weight, (True, False, False))[0]
        if for_weight or narrowest:
            gradients, inputs = (side_by_side(x, together, gap) for x in (gradient, images))
            wanted = (for_images and narrowest, for_weight, False)
            of_inputs, of_weight, _ = _backward(ctx, gradients, inputs, weight, wanted)
            if narrowest and for_images:
                of_images = apart(of_inputs, together, images)
        return of_images, of_weight, _of_bias(ctx, gradient), None, None


class _Convolution(torch.autograd.Function):
    """A convolution; its subclasses have gradients of their own."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding, ctx.dilation, ctx.groups = stride, padding, dilation, groups
        return torch.conv2d(images, weight, bias, stride, padding, dilation, groups)


class _StridedDepthwise(_Convolution):
    """The gradient of its input is computed in fp32."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        for_images, for_weight, *_ = ctx.needs_input_grad
        of_images = of_weight = None
        if for_images:
            # of the input only size and layout are looked at
            like = torch.empty_like(images, dtype=torch.float32)
            exact = gradient.float(), like, weight.float()
            of_images = _backward(ctx, *exact, (True, False, False))[0].to(images.dtype)
        if for_weight:
            of_weight = _backward(ctx, gradient, images, weight, (False, True, False))[1]
        return of_images, of_weight, _of_bias(ctx, gradient), None, None, None, None


class _Windows(_Convolution):
    """The gradient of its weights is a product of gradients and windows."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        for_images, for_weight, *_ = ctx.needs_input_grad
        of_images = of_weight = None
        if for_images:
            of_images = _backward(ctx, gradient, images, weight, (True, False, False))[0]
        if for_weight:
            kernel = weight.shape[2:]
            seen = windows(images, kernel, gradient.shape[2:], ctx)
            # in two halves: one product has too few blocks for two threads
            halves = 2 - len(seen) % 2
            rows = gradient.permute(0, 2, 3, 1).reshape(halves, -1, gradient.shape[1])
            product = torch.bmm(rows.transpose(1, 2), seen.view(halves, -1, seen.shape[1])).sum(0)
            of_weight = product.view(len(weight), *kernel, -1).permute(0, 3, 1, 2)
        return of_images, of_weight, _of_bias(ctx, gradient), None, None, None, None


def _of_bias(ctx: Any, gradient: Tensor) -> Tensor | None:
    return gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def windows(images: Tensor, kernel: Sequence[int], size: Sequence[int], how: Any) -> Tensor:
    """What each output position sees: [N, C, H, W] to [N · H' · W', kernel's area · C].

    Args:
        images: the input.
        kernel: height and width.
        size: H', W'.
        how: has ``stride``, ``padding`` and ``dilation``, a pair each.
    """
    (up, left), (down, right), (rows, columns) = how.padding, how.stride, how.dilation
    padded = nn.functional.pad(images.permute(0, 2, 3, 1), (0, 0, left, left, up, up))
    padded = padded.contiguous()  # without a padding it has the order of the images still
    count, _, _, channels = padded.shape
    image, row, column, _ = padded.stride()
    seen = padded.as_strided(
        (count, *size, *kernel, channels),
        (image, row * down, column * right, row * rows, column * columns, 1),
    )
    return seen.reshape(count * size[0] * size[1], -1)


def _autocast_training() -> bool:
    return torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")


def _applied(
    function: type[torch.autograd.Function], layer: nn.Conv2d, input: Tensor, *how: object
) -> Tensor:
    """A function of input, weight and bias, all in autocast's dtype."""
    dtype = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        bias = None if layer.bias is None else layer.bias.to(dtype)
        output: Tensor = function.apply(input.to(dtype), layer.weight.to(dtype), bias, *how)
    return output


def _backward(
    ctx: Any,
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, ...]:
    """Gradients of images, weight and bias; ``ctx`` has what the convolution was called with."""
    how = (list(ctx.stride), list(ctx.padding), list(ctx.dilation), False, [0, 0], ctx.groups)
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, *how, wanted
    )
    return found


def images_in_a_row(width: int) -> int:
    """How many images of a width, their gap included, are laid side by side."""
    tiles = 1 if width > TILE // 6 else 2
    return max(2, tiles * TILE // width)


def side_by_side(images: Tensor, together: int, gap: int) -> Tensor:
    """Images in rows: [N, C, H, W] to [ceil(N / together), C, H, together · (W + gap)].

    Behind each image are ``gap`` columns of zeros; so are images that the last row lacks.
    """
    count, channels, height, width = images.shape
    rows, rest = divmod(count, together)
    last_first = images.permute(0, 2, 3, 1)
    whole = last_first[: count - rest].reshape(rows, together, height, width, channels)
    shape = (rows + bool(rest), height, together, width + gap, channels)
    wide = images.new_empty(shape)
    wide[:, :, :, width:] = 0
    wide[:rows, :, :, :width] = whole.transpose(1, 2)
    if rest:
        wide[rows, :, :rest, :width] = last_first[count - rest :].transpose(0, 1)
        wide[rows, :, rest:] = 0
    return wide.view(shape[0], height, -1, channels).permute(0, 3, 1, 2)


def apart(wide: Tensor, together: int, like: Tensor) -> Tensor:
    """The other way: as many images, of the same size, as ``like`` has: [N, C, H, W]."""
    count, _, height, width = like.shape
    rows: Tensor = wide.permute(0, 2, 3, 1).unflatten(2, (together, -1))[:, :, :, :width]
    flat = rows.transpose(1, 2).reshape(-1, height, width, wide.shape[1])
    return flat[:count].permute(0, 3, 1, 2)


def _keeps_size(layer: nn.Conv2d) -> bool:
    """Whether it is a dense convolution of stride 1 whose output has the size of its input."""
    return (
        layer.groups == 1
        and max(layer.stride) == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and min(layer.in_channels, layer.out_channels) >= FEWEST_CHANNELS
        and all(
            2 * p == d * (k - 1)
            for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size, strict=True)
        )
    )


def _wrong_weights(layer: nn.Conv2d, input: Tensor) -> bool:
    """Whether oneDNN's bf16 gradient of the weights is made of memory that nobody wrote.

    It is where the image is narrower than the stride, so that each row has one position only, which
    begins in the padding: 3x3, stride 2, on 1x1 pixels.
    """
    return input.shape[3] < layer.stride[1] and _padding(layer)[1] > 0


def _wrong_output(layer: nn.Conv2d, input: Tensor) -> bool:
    """Whether oneDNN's bf16 output may be wrong: a strided column, or reordered weights."""
    if _reorders(layer):
        return True
    if layer.stride[1] == 1 or layer.groups == layer.in_channels == layer.out_channels:
        return False
    how = _padding(layer), layer.dilation, layer.kernel_size, layer.stride
    rows, columns = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, padding, dilation, kernel, stride in zip(input.shape[2:], *how, strict=True)
    )
    return columns == 1 < rows


def _reorders(layer: nn.Conv2d) -> bool:
    """Whether few channels times the kernel's width fill whole tiles, which oneDNN mixes up."""
    channels = layer.in_channels // layer.groups
    filled = channels * layer.kernel_size[1]
    return (
        channels < TILE < filled
        and channels % 2 == filled % TILE == 0
        and (channels < TILE // 2 or _padding(layer)[1] == 0)
    )


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "same":
        return tuple(
            d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        )
    return (0, 0) if isinstance(layer.padding, str) else layer.padding


def _pads_zeros(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
