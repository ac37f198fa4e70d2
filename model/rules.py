"""What each of torch's operators does to positions: the rules that the tracer applies.

Operators are known by their schema's name, without underscores around it, so that ``relu_`` and
``relu`` are one. What is not listed here, and is not elementwise, is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from model.layout import Dim, Seen, join, plain
from model.operator_call import Call, Kind, Window, dims_of
from model.receptive_field import Underivable
from model.views import VIEW_RULES

_ACTIVATIONS = frozenset(
    """relu relu6 gelu silu mish elu selu celu leaky_relu prelu_kernel hardtanh hardswish
    hardsigmoid sigmoid tanh softplus softmax log_softmax rrelu log_sigmoid_forward""".split()  # noqa: SIM905
)
_NORMS = frozenset(
    """native_batch_norm native_batch_norm_legit native_batch_norm_legit_no_training
    cudnn_batch_norm miopen_batch_norm batch_norm_with_update batch_norm_no_update
    native_group_norm native_layer_norm fused_rms_norm""".split()  # noqa: SIM905
)
_SAME = _NORMS | frozenset(
    """hardswish prelu_kernel native_dropout channel_shuffle clone to_copy detach alias
    lift_fresh contiguous rrelu_with_noise log_sigmoid_forward softplus bernoulli""".split()  # noqa: SIM905
)
_POOLS = {
    "max_pool2d_with_indices": "max",
    "max_pool2d": "max",
    "avg_pool2d": "average",
    "avg_pool1d": "average",
}
_ADAPTIVE = {"adaptive_avg_pool2d": "average", "adaptive_max_pool2d": "max"}
_REDUCTIONS = {
    "mean": "average",
    "sum": "average",
    "amax": "max",
    "max": "max",
    **dict.fromkeys(
        ("amin", "min", "var", "std", "var_mean", "std_mean", "prod", "argmax"), "linear"
    ),
    **dict.fromkeys(("linalg_vector_norm", "logsumexp"), "linear"),
}
_ALONG = frozenset(
    """softmax log_softmax cumsum cumprod sort""".split()  # noqa: SIM905
)
_MATMULS = frozenset(
    """mm addmm bmm baddbmm linear mv addmv""".split()  # noqa: SIM905
)
_RNNS = {
    "mkldnn_rnn_layer": ("weight0", "weight1"),
    "cudnn_rnn": ("weight",),
    "miopen_rnn": ("weight",),
    "lstm_mps": ("params",),
}
"""Recurrent layers that are one operator, and where it has their weights and biases."""
_PICKS = frozenset(
    """embedding index index_select gather index_put index_add scatter scatter_add masked_scatter
    slice_scatter select_scatter repeat repeat_interleave unsafe_split unsafe_split_with_sizes
    as_strided unfold im2col pixel_shuffle diagonal tril triu zero""".split()  # noqa: SIM905
)
"""Without a product, although their positions are not followed."""
_MADE = ("new_", "zeros", "ones", "full", "empty", "rand")
"""How the names begin of what takes no more of a tensor than its shape."""


def classify(call: Call) -> Kind:
    """What a table of layers would call it."""
    name = call.name
    if name == "convolution":
        return "conv"
    if name in _POOLS or name in _ADAPTIVE or name == "pixel_unshuffle":
        return "pool"
    if name in _MATMULS:
        return "matmul"
    if name in _REDUCTIONS:
        return "reduce"
    if name in _NORMS:
        return "norm"
    if name in ("cat", "stack") or (_elementwise(call) and len(call.seen) > 1):
        return "join"
    return "act" if name in _ACTIVATIONS else "move"


def title(call: Call) -> str:
    """Name for the user."""
    if call.name == "convolution":
        kind = "conv_transpose" if call.bound["transposed"] else "conv"
        return f"{kind}{len(call.bound['stride'])}d"
    renamed = {"addmm": "linear", "mm": "linear", "bmm": "matmul", "prelu_kernel": "prelu"}
    name = renamed.get(call.name, call.name)
    return name.removeprefix("native_").removesuffix("_with_indices")


def macs(call: Call, *, weighted: bool) -> int | None:
    """Multiply-adds of convolutions and matrix products, for the whole batch; bias left out.

    None for an operator that has no rule, where it is ``weighted``: where it uses parameters.
    """
    name, out = call.name, call.outputs[0]
    if name == "convolution":
        weight = call.bound["weight"]
        data = call.bound["input"] if call.bound["transposed"] else out
        return int(data.numel() * math.prod(weight.shape[1:]))
    if name in _MATMULS:
        inner = _factors(call)[0]
        return out.numel() * call.size(inner)[-1]
    if name in _RNNS:  # at each position of the sequence all its matrices, and nothing else
        weights = tree_leaves([call.bound[k] for k in _RNNS[name]])
        positions = math.prod(call.bound["input"].shape[:-1])
        return int(positions * sum(w.numel() for w in weights if w.ndim == 2))
    if name == "trilinear":  # of nn.Bilinear
        shapes = (_unsqueezed(call.size(call.args[i]), call.args[i + 3]) for i in range(3))
        return int(math.prod(map(max, zip(*shapes, strict=True))))
    return None if weighted and not _has_rule(call) else 0


def window(call: Call) -> Window | None:
    """The sliding window of a convolution or pooling."""
    if call.name == "convolution":
        b = call.bound
        shape = tuple(call.size(b["weight"])[2:])
        n = len(shape)
        stride, padding, dilation = (_tuple(b[k], n) for k in ("stride", "padding", "dilation"))
        return Window(shape, stride, padding, dilation, b["groups"])
    if call.name in _POOLS:
        b = call.bound
        n = int(call.name.partition("d")[0][-1]) if call.name == "avg_pool1d" else 2
        kernel = _tuple(b["kernel_size"], n)
        stride = _tuple(b["stride"], n) if b.get("stride") else kernel
        return Window(kernel, stride, _tuple(b["padding"], n), _tuple(b.get("dilation", 1), n))
    if call.name == "pixel_unshuffle":
        patch = _tuple(call.bound["downscale_factor"], 1) * 2
        return Window(patch, patch, (0, 0), (1, 1))
    return None


def is_pointwise(call: Call, batch: int) -> bool:
    """Whether a matrix product is a 1x1 convolution: a linear layer over the last dimension, which
    holds all channels of one position.
    """
    seen = call.seen.get(id(_factors(call)[0]))
    if not isinstance(seen, Seen) or seen.axes_in(len(seen.layout) - 1):
        return False
    beside = (size for dim in seen.layout[:-1] for size, axis in dim if axis is None)
    return math.prod(beside) == batch


def mark(seen: Seen, depthwise: int) -> Seen:
    """Comes right from the depthwise convolution of this number."""
    return replace(seen, depthwise=depthwise)


def follow(call: Call) -> list[Seen]:
    """What the results see of the image.

    Raises:
        Underivable: it is not known, and why.
    """
    name = call.name
    if name in _RULES:
        return _RULES[name](call)
    if _elementwise(call):
        return [join(call.parts, call.shape)] * len(call.outputs)
    if name in _SAME:
        seen = call.only.sized(call.shape)
        if name == "channel_shuffle" and seen.axes_in(1):
            raise Underivable("channels that hold rows or columns are shuffled")
        return [seen] * len(call.outputs)
    if name in _REDUCTIONS:
        return _reduce(call)
    if all(part.pooled for part in call.parts):  # no positions left to lose: the union will do
        pooled = [replace(p.settled(), layout=(), depthwise=None) for p in call.parts]
        union = join(pooled, ())
        return [replace(union, layout=plain(o.shape)) for o in call.outputs]
    raise Underivable(f"no rule for {name}")


def _has_rule(call: Call) -> bool:
    known = call.name in _RULES or call.name in _SAME or call.name in _REDUCTIONS
    return known or call.name in _PICKS or call.name.startswith(_MADE) or _elementwise(call)


def _unsqueezed(shape: tuple[int, ...], dims: Sequence[int]) -> list[int]:
    """The shape with a 1 at each of the dimensions, in ascending order."""
    sizes = list(shape)
    for dim in sorted(dims):
        sizes.insert(dim, 1)
    return sizes


def _elementwise(call: Call) -> bool:
    if torch.Tag.pointwise in call.func.tags:
        return True
    return call.name in ("copy", "masked_fill", "where", "clamp", "rsub")


def _tuple(value: Any, n: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else (*value,)
    return values * n if len(values) == 1 else values


def _convolution(call: Call) -> list[Seen]:
    seen, spec = call.only, window(call)
    assert spec is not None
    if call.bound["transposed"]:
        if not seen.pooled:
            raise Underivable("transposed convolution")
        seen = seen.collapse(range(2, len(seen.layout)), "linear")
    return [_slide(seen.collapse([1], "linear").mixed(), spec, call.shape)]


def _slide(seen: Seen, spec: Window, shape: tuple[int, ...]) -> Seen:
    lead = len(shape) - len(spec.kernel)
    for i, (k, s, p, d) in enumerate(
        zip(spec.kernel, spec.stride, spec.padding, spec.dilation, strict=True)
    ):
        which = seen.single(lead + i, "a window slides")
        if which is not None:
            seen = seen.with_axis(which, seen.axes[which].window(k, s, p, d))
    return replace(seen, depthwise=None).sized(shape)


def _pool(call: Call) -> list[Seen]:
    seen, spec = call.only, window(call)
    assert spec is not None
    sizes = call.size(call.args[0])[-len(spec.kernel) :]
    whole = all(k >= n for k, n in zip(spec.kernel, sizes, strict=True)) and max(sizes) > 1
    after = _slide(seen, spec, call.shape)
    if whole and math.prod(call.shape[-len(sizes) :]) == 1:  # global pooling by its size
        after = after.shut(seen, _POOLS[call.name])
    return [after] * len(call.outputs)


def _unshuffle(call: Call) -> list[Seen]:
    """Patches become channels: together these see what pooling would."""
    seen, spec = call.only, window(call)
    assert spec is not None
    if seen.axes_in(len(seen.layout) - 3):
        raise Underivable("channels that hold rows or columns are unshuffled")
    return [_slide(seen, spec, call.shape)]


def _adaptive(call: Call) -> list[Seen]:
    seen, shape = call.only, call.shape
    before = call.size(call.args[0])
    last = (len(shape) - 2, len(shape) - 1)
    seen = seen.collapse([dim for dim in last if shape[dim] == 1], _ADAPTIVE[call.name])
    for dim in last:
        n, m = before[dim], shape[dim]
        if m == 1:
            continue
        if n == 1:
            seen = seen.collapse([dim], "broadcast")
        elif n % m:
            raise Underivable(f"adaptive pooling of {n} positions to {m}")
        elif (which := seen.single(dim, "pooling")) is not None:
            seen = seen.with_axis(which, seen.axes[which].window(n // m, n // m))
    return [replace(seen, depthwise=None).sized(shape)] * len(call.outputs)


def _reduce(call: Call) -> list[Seen]:
    dims = dims_of(call, call.bound.get("dim"))
    seen = replace(call.only.collapse(dims, _REDUCTIONS[call.name]), depthwise=None)
    one: Dim = ((1, None),)
    layout = tuple(one if d in dims else seen.layout[d] for d in range(len(seen.layout)))
    if len(call.shape) < len(layout):
        layout = tuple(dim for d, dim in enumerate(layout) if d not in dims)
    return [replace(seen, layout=layout)] * len(call.outputs)


def _mix_along(call: Call) -> list[Seen]:
    """Softmax and the like: every position of a dimension depends on all of it."""
    seen = call.only.collapse(dims_of(call, call.bound["dim"]), "linear")
    return [replace(seen, depthwise=None)] * len(call.outputs)


def _factors(call: Call) -> tuple[Tensor, Tensor]:
    """The two factors of a matrix product, without what is added to it."""
    tensors = [a for a in call.args if isinstance(a, Tensor)]
    if call.name == "linear":
        return tensors[0], tensors[1]
    return tensors[-2], tensors[-1]


def _matmul(call: Call) -> list[Seen]:
    left, right = _factors(call)
    a, b = call.of(left), call.of(right)
    if len(call.seen) > 1 or (a is None and b is None):
        if all(part.pooled for part in call.parts):
            union = join([replace(p.settled(), layout=()) for p in call.parts], ())
            return [replace(union, layout=plain(call.shape), depthwise=None)]
        raise Underivable(f"{title(call)} of two tensors that both depend on the image")
    if a is not None:
        seen = a.mixed().collapse([len(a.layout) - 1], "linear")
        layout = seen.layout[:-1]
        if right.ndim > 1:
            layout = (*layout, ((call.shape[-1], None),))
    else:
        assert b is not None
        inner = max(0, len(b.layout) - 2)
        seen = b.mixed().collapse([inner], "linear")
        layout = (*seen.layout[:inner], ((call.shape[inner], None),), *seen.layout[inner + 1 :])
    return [replace(seen, layout=layout, depthwise=None)]


_RULES: dict[str, Callable[[Call], list[Seen]]] = {
    "convolution": _convolution,
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_ADAPTIVE, _adaptive),
    "pixel_unshuffle": _unshuffle,
    **dict.fromkeys(_MATMULS, _matmul),
    **dict.fromkeys(_ALONG, _mix_along),
    **VIEW_RULES,
}
