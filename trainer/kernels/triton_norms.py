"""Kernels for a GPU, in Triton: batch norm with what stands round it, and 2x2 max pooling.

Tensors are bf16 in channels_last, seen as rows of channels: [N·H·W, C]. Programs of a kernel that
sums take its tiles in turns, so that all of them are in one part of the tensor at a time, and from
its end to its beginning: what was written last is still in the cache, and what was read last is
there for the kernel after it, which begins at the beginning. Sums are in fp32, of each program for
itself, and added in a fixed order by a kernel of their own: the same input gives the same numbers.

``ACT``: 0 none, 1 ReLU, 2 GELU, as ``trainer.kernels.fused`` numbers them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _normal(z):
    """Distribution function and density of the normal distribution.

    Abramowitz & Stegun 1964, 7.1.26: off by less than 1e-7. Both share the one exponential.
    """
    density = tl.exp(-0.5 * z * z)
    t = 1 / (1 + (0.3275911 * 0.7071067811865476) * tl.abs(z))
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t) * t
    tail = 0.5 * (series + 0.254829592 * t) * density
    return tl.where(z < 0, tail, 1 - tail), density * 0.3989422804014327


@triton.jit
def _activated(z, ACT: tl.constexpr):
    if ACT == 1:
        z = tl.where(z < 0, 0.0, z)  # not a number stays
    elif ACT == 2:
        below, _ = _normal(z)
        z = z * below
    return z


@triton.jit
def _keep(partial_at, first, second, channels, c, inside):
    """A program's two sums, where ``_totals`` looks for them."""
    part, parts = tl.program_id(0), tl.num_programs(0)
    tl.store(partial_at + part * channels + c, tl.sum(first, 0), mask=inside)
    tl.store(partial_at + (parts + part) * channels + c, tl.sum(second, 0), mask=inside)


@triton.jit
def _totals(partial_at, channels, parts, c, inside, P: tl.constexpr):
    """Both sums over all programs."""
    p = tl.arange(0, P)
    at = partial_at + p[:, None] * channels + c[None, :]
    here = (p < parts)[:, None] & inside[None, :]
    first = tl.sum(tl.load(at, mask=here, other=0.0), 0)
    return first, tl.sum(tl.load(at + parts * channels, mask=here, other=0.0), 0)


@triton.jit
def _of_channels(
    statistics_at,
    weight_at,
    bias_at,
    channels,
    c,
    inside,
    SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
    B: tl.constexpr,
):
    """Mean, 1 / deviation, weight and bias, [1, B]."""
    mean = tl.load(statistics_at + c, mask=inside, other=0.0)
    factor = tl.load(statistics_at + channels + c, mask=inside, other=0.0)
    weight = tl.full([B], 1.0, tl.float32)
    bias = tl.zeros([B], tl.float32)
    if SCALED:
        weight = tl.load(weight_at + c, mask=inside, other=0.0)
    if SHIFTED:
        bias = tl.load(bias_at + c, mask=inside, other=0.0)
    return mean[None, :], factor[None, :], weight[None, :], bias[None, :]


@triton.jit
def _window(r, height, width):
    """Of an output of 2x2 pooling the first row of its window, and its line and column."""
    lower, across = height // 2, width // 2
    line, column = r // across, r % across
    row = line % lower
    return ((line // lower) * height + row * 2) * width + column * 2, row, column


@triton.jit
def _larger(most, where, other, index: tl.constexpr):
    """The larger of two, and whose it is; not a number is the largest."""
    more = (other > most) | (other != other)
    return tl.where(more, other, most), tl.where(more, index, where)


@triton.jit
def moments(x_at, partial_at, rows, channels, R: tl.constexpr, B: tl.constexpr):
    """Of each program's rows the sums of x - x[0] and of its squares, fp32 [2, parts, C].

    The first row is a guess at the mean: without it squares of a mean far from 0 would leave no
    digits for the variance.
    """
    part, parts = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * B + tl.arange(0, B)
    inside = c < channels
    shift = tl.load(x_at + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    sums = tl.zeros([R, B], tl.float32)
    squares = tl.zeros([R, B], tl.float32)
    tiles = tl.cdiv(rows, R)
    for k in range(part, tiles, parts):
        r = (tiles - 1 - k) * R + tl.arange(0, R)
        here = (r < rows)[:, None] & inside[None, :]
        x = tl.load(x_at + r[:, None] * channels + c[None, :], mask=here, other=0.0)
        x = tl.where(here, x.to(tl.float32) - shift, 0.0)
        sums += x
        squares += x * x
    _keep(partial_at, sums, squares, channels, c, inside)


@triton.jit
def pool_moments(
    x_at,
    y_at,
    where_at,
    partial_at,
    rows,
    channels,
    height,
    width,
    R: tl.constexpr,
    B: tl.constexpr,
):
    """2x2 max pooling with what ``moments`` finds of its output, and which of the four it was.

    ``rows`` are those of the output, ``height`` and ``width`` of the input. Of equals the first one
    counts; not a number is the largest.
    """
    part, parts = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * B + tl.arange(0, B)
    inside = c < channels
    shift = tl.load(x_at + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    sums = tl.zeros([R, B], tl.float32)
    squares = tl.zeros([R, B], tl.float32)
    tiles = tl.cdiv(rows, R)
    for k in range(part, tiles, parts):
        r = (tiles - 1 - k) * R + tl.arange(0, R)
        here = (r < rows)[:, None] & inside[None, :]
        first, _, _ = _window(r, height, width)
        at = x_at + first[:, None] * channels + c[None, :]
        below = at + width * channels
        most = tl.load(at, mask=here, other=0.0).to(tl.float32)
        second = tl.load(at + channels, mask=here, other=0.0).to(tl.float32)
        third = tl.load(below, mask=here, other=0.0).to(tl.float32)
        fourth = tl.load(below + channels, mask=here, other=0.0).to(tl.float32)
        where = tl.zeros_like(most).to(tl.int32)
        most, where = _larger(most, where, second, 1)
        most, where = _larger(most, where, third, 2)
        most, where = _larger(most, where, fourth, 3)
        out = r[:, None] * channels + c[None, :]
        tl.store(y_at + out, most.to(tl.bfloat16), mask=here)
        tl.store(where_at + out, where.to(tl.uint8), mask=here)
        x = tl.where(here, most - shift, 0.0)
        sums += x
        squares += x * x
    _keep(partial_at, sums, squares, channels, c, inside)


@triton.jit
def finish_moments(
    x_at,
    partial_at,
    statistics_at,
    mean_at,
    var_at,
    count_at,
    rows,
    channels,
    parts,
    factor,
    eps,
    RUNNING: tl.constexpr,
    COUNTED: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
):
    """Mean and 1 / deviation, fp32 [2, C], out of ``moments``; the running ones go on by them."""
    c = tl.program_id(0) * B + tl.arange(0, B)
    inside = c < channels
    first, second = _totals(partial_at, channels, parts, c, inside, P)
    first /= rows
    mean = tl.load(x_at + c, mask=inside, other=0.0).to(tl.float32) + first
    var = second / rows - first * first
    var = tl.where(var < 0, 0.0, var)  # not a number stays
    tl.store(statistics_at + c, mean, mask=inside)
    tl.store(statistics_at + channels + c, 1 / tl.sqrt(var + eps), mask=inside)
    if RUNNING:
        before = tl.load(mean_at + c, mask=inside, other=0.0)
        tl.store(mean_at + c, before + factor * (mean - before), mask=inside)
        before = tl.load(var_at + c, mask=inside, other=0.0)
        unbiased = var * (rows / (rows - 1.0))
        tl.store(var_at + c, before + factor * (unbiased - before), mask=inside)
    if COUNTED and tl.program_id(0) == 0:
        tl.store(count_at, tl.load(count_at) + 1)


@triton.jit
def normalise(
    x_at,
    residual_at,
    weight_at,
    bias_at,
    mean_at,
    spread_at,
    y_at,
    rows,
    channels,
    eps,
    ACT: tl.constexpr,
    ADDED: tl.constexpr,
    SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
    VARIANCE: tl.constexpr,
    R: tl.constexpr,
    B: tl.constexpr,
):
    """act(norm(x) + residual). ``spread_at``: 1 / deviation, or with ``VARIANCE`` the variance."""
    r = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.program_id(1) * B + tl.arange(0, B)
    inside = c < channels
    here = (r < rows)[:, None] & inside[None, :]
    at = r[:, None] * channels + c[None, :]
    x = tl.load(x_at + at, mask=here, other=0.0).to(tl.float32)
    mean = tl.load(mean_at + c, mask=inside, other=0.0)
    factor = tl.load(spread_at + c, mask=inside, other=1.0)
    if VARIANCE:
        factor = 1 / tl.sqrt(factor + eps)
    if SCALED:
        factor *= tl.load(weight_at + c, mask=inside, other=0.0)
    z = (x - mean[None, :]) * factor[None, :]
    if SHIFTED:
        z += tl.load(bias_at + c, mask=inside, other=0.0)[None, :]
    if ADDED:
        z += tl.load(residual_at + at, mask=here, other=0.0).to(tl.float32)
    tl.store(y_at + at, _activated(z, ACT).to(tl.bfloat16), mask=here)


@triton.jit
def _before_act(
    gradient, x, y_at, at, here, factor, weight, bias, ACT: tl.constexpr, KEPT: tl.constexpr
):
    """The gradient of what the activation was given; ``x`` is normalised."""
    if KEPT:
        y = tl.load(y_at + at, mask=here, other=0.0)
        gradient = tl.where(y > 0, gradient, 0.0)
    elif ACT == 1:
        gradient = tl.where(x * weight + bias > 0, gradient, 0.0)
    elif ACT == 2:
        z = x * weight + bias
        below, density = _normal(z)
        gradient = gradient * (below + z * density)
    return gradient


@triton.jit
def gradient_sums(
    gradient_at,
    x_at,
    y_at,
    statistics_at,
    weight_at,
    bias_at,
    partial_at,
    of_sum_at,
    rows,
    channels,
    ACT: tl.constexpr,
    KEPT: tl.constexpr,
    STORED: tl.constexpr,
    SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
    R: tl.constexpr,
    B: tl.constexpr,
):
    """Of each program's rows the sums of the gradient before the activation, and of it times the
    normalised x, fp32 [2, parts, C]; ``STORED``: the gradient itself as well.
    """
    part, parts = tl.program_id(0), tl.num_programs(0)
    c = tl.program_id(1) * B + tl.arange(0, B)
    inside = c < channels
    mean, factor, weight, bias = _of_channels(
        statistics_at, weight_at, bias_at, channels, c, inside, SCALED, SHIFTED, B
    )
    sums = tl.zeros([R, B], tl.float32)
    products = tl.zeros([R, B], tl.float32)
    tiles = tl.cdiv(rows, R)
    for k in range(part, tiles, parts):
        r = (tiles - 1 - k) * R + tl.arange(0, R)
        here = (r < rows)[:, None] & inside[None, :]
        at = r[:, None] * channels + c[None, :]
        gradient = tl.load(gradient_at + at, mask=here, other=0.0).to(tl.float32)
        x = (tl.load(x_at + at, mask=here, other=0.0).to(tl.float32) - mean) * factor
        gradient = _before_act(gradient, x, y_at, at, here, factor, weight, bias, ACT, KEPT)
        if STORED:
            tl.store(of_sum_at + at, gradient.to(tl.bfloat16), mask=here)
        gradient = tl.where(here, gradient, 0.0)
        sums += gradient
        products += gradient * x
    _keep(partial_at, sums, products, channels, c, inside)


@triton.jit
def finish_sums(partial_at, of_affine_at, channels, parts, P: tl.constexpr, B: tl.constexpr):
    """Gradients of weight and bias, fp32 [2, C], out of ``gradient_sums``."""
    c = tl.program_id(0) * B + tl.arange(0, B)
    inside = c < channels
    of_bias, of_weight = _totals(partial_at, channels, parts, c, inside, P)
    tl.store(of_affine_at + c, of_weight, mask=inside)
    tl.store(of_affine_at + channels + c, of_bias, mask=inside)


@triton.jit
def gradient_of_x(
    gradient_at,
    x_at,
    statistics_at,
    weight_at,
    bias_at,
    of_affine_at,
    where_at,
    of_x_at,
    rows,
    channels,
    height,
    width,
    ACT: tl.constexpr,
    SCALED: tl.constexpr,
    SHIFTED: tl.constexpr,
    POOLED: tl.constexpr,
    R: tl.constexpr,
    B: tl.constexpr,
):
    """The gradient of a norm's input, or with ``POOLED`` of what was pooled before it.

    ``rows`` are those of the norm, ``height`` and ``width`` of what was pooled, whose last line or
    column belongs to no window where they are odd: its gradient is 0.
    """
    r = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.program_id(1) * B + tl.arange(0, B)
    inside = c < channels
    here = (r < rows)[:, None] & inside[None, :]
    at = r[:, None] * channels + c[None, :]
    mean, factor, weight, bias = _of_channels(
        statistics_at, weight_at, bias_at, channels, c, inside, SCALED, SHIFTED, B
    )
    along = tl.load(of_affine_at + c, mask=inside, other=0.0)[None, :] / rows
    average = tl.load(of_affine_at + channels + c, mask=inside, other=0.0)[None, :] / rows
    gradient = tl.load(gradient_at + at, mask=here, other=0.0).to(tl.float32)
    x = (tl.load(x_at + at, mask=here, other=0.0).to(tl.float32) - mean) * factor
    gradient = _before_act(gradient, x, x_at, at, here, factor, weight, bias, ACT, False)
    of_x = ((gradient - average - x * along) * (factor * weight)).to(tl.bfloat16)
    if POOLED:
        first, row, column = _window(r, height, width)
        to = of_x_at + first[:, None] * channels + c[None, :]
        below = to + width * channels
        where = tl.load(where_at + at, mask=here, other=4)
        none = tl.zeros_like(of_x)
        tl.store(to, tl.where(where == 0, of_x, none), mask=here)
        tl.store(to + channels, tl.where(where == 1, of_x, none), mask=here)
        tl.store(below, tl.where(where == 2, of_x, none), mask=here)
        tl.store(below + channels, tl.where(where == 3, of_x, none), mask=here)
        right = here & ((column == width // 2 - 1) & (width % 2 == 1))[:, None]
        tl.store(to + 2 * channels, none, mask=right)
        tl.store(below + 2 * channels, none, mask=right)
        bottom = here & ((row == height // 2 - 1) & (height % 2 == 1))[:, None]
        under = below + width * channels
        tl.store(under, none, mask=bottom)
        tl.store(under + channels, none, mask=bottom)
        tl.store(under + 2 * channels, none, mask=bottom & right)
    else:
        tl.store(of_x_at + at, of_x, mask=here)
