"""The matrix tiles of a CPU (AMX): convolutions, and the update of Muon.

Images are bf16 in channels_last, weights fp32; sums are in fp32. What a layer is comes from an
``nn.Conv2d`` of one group with zeros around it, as many as a number says; input channels are a
multiple of 8, output channels of 16. The C++ is ``convolutions.cpp`` and ``muon.cpp``.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.kernels.build import at, library

SIDE = 16
"""Rows and columns of a tile of sums."""


@functools.cache
def ready() -> bool:
    """Whether this processor has tiles and the system lets this process use them.

    Raises:
        BuildError: there are no kernels.
    """
    return bool(library().tiles_ready())


def take(layer: nn.Conv2d, images: Tensor) -> bool:
    """Whether images are what the layer is for: others, and what is wrong, are for torch."""
    own = [p for p in (layer.weight, layer.bias) if p is not None]
    return (
        images.device.type == "cpu"
        and images.dim() == 4
        and images.numel() > 0
        and images.shape[1] == layer.in_channels
        and layer.weight.shape == (layer.out_channels, layer.in_channels, *layer.kernel_size)
        and (layer.bias is None or layer.bias.shape == (layer.out_channels,))
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in own)
        and min(output_size(layer, images)) > 0
    )


def give_input_gradient(layer: nn.Conv2d) -> bool:
    """Whether ``gradients`` can give that of the images."""
    return layer.in_channels % SIDE == 0


def padding(layer: nn.Conv2d) -> tuple[int, ...]:
    """Zeros above and left of the images; none where the mode is ``valid``."""
    if layer.padding == "same":
        return tuple(
            d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        )
    return (0, 0) if isinstance(layer.padding, str) else layer.padding


def output_size(layer: nn.Conv2d, images: Tensor) -> tuple[int, int]:
    """H', W'."""
    how = padding(layer), layer.dilation, layer.kernel_size, layer.stride
    height, width = (
        (size + 2 * around - dilation * (kernel - 1) - 1) // stride + 1
        for size, around, dilation, kernel, stride in zip(images.shape[-2:], *how, strict=True)
    )
    return height, width


class Normed(ctypes.Structure):
    """The norm behind a convolution, for its gradient. Of [N, C', H', W'], see the source.

    Args:
        x: the norm's input, bf16 in channels_last.
        numbers: fp32 [4, C'], of ``fused.norm_backward``.
        masked: whether the gradient is 0 where a ReLU let nothing pass.
    """

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
        ("masked", ctypes.c_int64),
    )

    def __init__(self, x: Tensor, numbers: Tensor, *, masked: bool) -> None:
        super().__init__(x.data_ptr(), numbers.data_ptr(), masked)
        self.own = x, numbers


def convolved(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    layer: nn.Conv2d,
    *,
    pooled: bool,
    moments: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Output [N, C', H', W'], or what 2x2 max pooling leaves of it, [N, C', H' // 2, W' // 2].

    The second is for ``gradients`` if it was pooled: which of four positions each number is from.
    ``moments``, fp64 [2, C'], get means and variances of what is given.
    """
    height, width = output_size(layer, images)
    if pooled:
        height, width = height // 2, width // 2
    count, channels = len(images), layer.out_channels
    output = images.new_empty((count, height, width, channels)).permute(0, 3, 1, 2)
    where = None
    if pooled:
        where = torch.empty(output.numel() // 8, dtype=torch.int16)
    weight, bias = _dense(weight), None if bias is None else bias.contiguous()
    library().convolve(
        _dimensions(layer, images, pooled=pooled),
        *(images.data_ptr(), weight.data_ptr(), _strides(weight)),
        *(at(bias), pooled, torch.get_num_threads()),
        *(output.data_ptr(), at(where), at(moments)),
    )
    return output, where


def gradients(
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    layer: nn.Conv2d,
    where: Tensor | None,
    *,
    of_images: bool,
    of_weight: bool,
    norm: Normed | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Of images, bf16, and weight, fp32, those that are wanted.

    Args:
        gradient: of the output, bf16 in channels_last, as ``images``; with ``norm`` of the norm's.
        images: the input.
        weight: fp32 [C', C, K, K].
        layer: see ``give_input_gradient``.
        where: what ``convolved`` gave beside the output.
        of_images: is wanted.
        of_weight: is wanted.
        norm: what followed the convolution.
    """
    weight, images = _dense(weight), images.contiguous(memory_format=torch.channels_last)
    for_images = torch.empty_like(images) if of_images else None
    for_weight = torch.empty_like(weight) if of_weight else None
    if of_images or of_weight:
        library().convolve_backward(
            _dimensions(layer, images, pooled=where is not None),
            *(images.data_ptr(), weight.data_ptr(), _strides(weight)),
            *(gradient.data_ptr(), at(where), norm and ctypes.byref(norm), torch.get_num_threads()),
            *(at(for_weight), at(for_images)),
        )
    return for_images, for_weight


def muon_takes(filters: Tensor, gradient: Tensor, buffer: Tensor) -> bool:
    """Whether ``muon`` can update these: all of them matrices of one order in memory."""
    every = filters, gradient, buffer
    return all(
        t.device.type == "cpu"
        and t.dtype == torch.float32
        and (t.shape, t.stride()) == (filters.shape, filters.stride())
        for t in every
    ) and (filters.is_contiguous() or filters.is_contiguous(memory_format=torch.channels_last))


def muon(
    filters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    buffers: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    decay: float,
) -> None:
    """One step of ``trainer.loop.optim.Muon`` for each of some filters [out, in, kh, kw], in place.

    Its products are in bf16. See ``muon_takes``.
    """
    count = len(filters)
    addresses = [
        (ctypes.c_void_p * count)(*(t.data_ptr() for t in some))
        for some in (filters, gradients, buffers)
    ]
    outputs = (ctypes.c_int64 * count)(*map(len, filters))
    inputs = (ctypes.c_int64 * count)(*(t[0].numel() for t in filters))
    threads = torch.get_num_threads()
    torch.autograd.graph.increment_version([*filters, *buffers])  # as any change in place does
    library().muon(*addresses, outputs, inputs, count, lr, momentum, decay, threads)


def _dimensions(layer: nn.Conv2d, images: Tensor, *, pooled: bool) -> ctypes.Array[ctypes.c_int64]:
    """``Layer`` in the source; what a 1x1 kernel sees of an image is one long row."""
    count, channels, height, width = images.shape
    if not pooled and max(*layer.kernel_size, *layer.stride) == 1 > max(padding(layer)):
        height, width = 1, height * width
    images_and_kernel = count, height, width, channels, layer.out_channels, *layer.kernel_size
    numbers = *images_and_kernel, layer.stride[0], *padding(layer), layer.dilation[0]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _dense(weight: Tensor) -> Tensor:
    """Weights whose gradient can have their strides: a slice of others is copied."""
    dense = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    return weight if dense else weight.contiguous()


def _strides(weight: Tensor) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * 4)(*weight.stride())
