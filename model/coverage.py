"""What windows leave out: positions under a stride, borders of the image. Torch-free."""

from __future__ import annotations

from typing import Protocol

Pair = tuple[int, int]


def skipped(kernel: Pair, stride: Pair, dilation: Pair) -> float:
    """Share of a layer's input positions that no output sees, 0 to 1, away from the borders.

    Along an axis a window beginning at ``stride · i`` sees the positions ``stride · i + dilation ·
    j`` for j below the kernel's size: all of them are seen when the remainders of ``dilation · j``
    by the stride are all there. A 1x1 convolution of stride 2 sees one of four.

    Args:
        kernel, stride, dilation: (height, width), each at least 1.
    """
    seen = 1.0
    for k, s, d in zip(kernel, stride, dilation, strict=True):
        seen *= len({d * j % s for j in range(min(k, s))}) / s if s > 1 else 1.0
    return 1.0 - seen


def skipping(kernel: Pair | None, stride: Pair | None, dilation: Pair | None) -> str:
    """One line when a window leaves positions out, else nothing; None: the layer has no window."""
    if kernel is None or stride is None or min(*stride, *kernel) < 1:
        return ""
    share = skipped(kernel, stride, dilation or (1, 1))
    if not share:
        return ""
    # a 1x1 kernel of stride 16 sees one of 256: little short of all is not all
    words = ">99.9" if share > 0.9995 else f"{100 * share:.1f}".removesuffix(".0")
    return f"stride {_axes(stride)} skips {words} % of the inputs of its {_axes(kernel)} kernel"


class Windowed(Protocol):
    """A row of the layer table, as far as its window goes."""

    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def kernel(self) -> Pair | None: ...  # noqa: D102
    @property
    def stride(self) -> Pair | None: ...  # noqa: D102
    @property
    def dilation(self) -> Pair | None: ...  # noqa: D102


def layer_skips(layer: Windowed) -> str:
    """As ``skipping``, of a layer; a transposed one strides in its output, and skips nothing."""
    if "Transpose" in layer.type:
        return ""
    return skipping(layer.kernel, layer.stride, layer.dilation)


def short(receptive_field: Pair | None, image: tuple[int, ...], *, pooled: bool) -> str:
    """One line when the receptive field stops short of the image, else nothing.

    Args:
        receptive_field: (height, width) at the last layer before global pooling.
        image: the net's input, [C, H, W].
        pooled: whether pooling mixes the positions; a linear layer over all of them sees the image.
    """
    if receptive_field is None or len(image) != 3 or not pooled:
        return ""
    if receptive_field[0] >= image[1] and receptive_field[1] >= image[2]:
        return ""
    return (
        f"receptive field {_axes(receptive_field)} stops short of the "
        f"{image[1]}×{image[2]} image"  # noqa: RUF001
    )


def _axes(value: Pair) -> str:
    return f"{value[0]}×{value[1]}"  # noqa: RUF001
