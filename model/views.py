"""Rules for operators that only move elements: views, padding, slicing, concatenation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from model.layout import Seen, join
from model.operator_call import Call, dims_of
from model.receptive_field import Underivable


def _pad(call: Call) -> list[Seen]:
    seen, pad = call.only, call.bound.get("pad") or call.bound["padding"]
    for i in range(len(pad) // 2):
        dim = len(seen.layout) - 1 - i
        if pad[2 * i] or pad[2 * i + 1]:
            which = seen.single(dim, "padding")
            if which is not None:
                seen = seen.with_axis(which, seen.axes[which].window(1, 1, pad[2 * i]))
    return [replace(seen, depthwise=None).sized(call.shape)]


def _reshape(call: Call) -> list[Seen]:
    return [call.only.reshaped(call.shape)]


def _permute(call: Call) -> list[Seen]:
    seen, ndim = call.only, len(call.only.layout)
    order = list(range(ndim))
    if call.name == "permute":
        order = [d % ndim for d in call.bound["dims"]]
    elif ndim > 1:
        one, two = (call.bound.get(k, d) % ndim for k, d in (("dim0", 0), ("dim1", 1)))
        order[one], order[two] = order[two], order[one]
    return [replace(seen, layout=tuple(seen.layout[d] for d in order))]


def _unsqueeze(call: Call) -> list[Seen]:
    seen = call.only
    at = call.bound["dim"] % (len(seen.layout) + 1)
    return [replace(seen, layout=(*seen.layout[:at], ((1, None),), *seen.layout[at:]))]


def _squeeze(call: Call) -> list[Seen]:
    shape = call.size(call.args[0])
    dims = [d for d in dims_of(call, call.bound.get("dim")) if shape[d] == 1]
    seen = call.only.collapse(dims, "flatten")
    return [replace(seen, layout=tuple(x for d, x in enumerate(seen.layout) if d not in dims))]


def _slice(call: Call) -> list[Seen]:
    seen, b = call.only, call.bound
    dim = b["dim"] % len(seen.layout)
    size = call.size(call.args[0])[dim]
    start, _, step = slice(b["start"], b["end"], b["step"]).indices(size)
    which = seen.single(dim, "slicing")
    if which is not None:
        seen = seen.with_axis(which, seen.axes[which].window(1, step, -start))
    return [replace(seen, depthwise=None).sized(call.shape)]


def _pick(seen: Seen, dim: int, index: int) -> Seen:
    """One index of a dimension, which disappears."""
    which = seen.single(dim, "indexing")
    if which is not None:
        seen = seen.with_axis(which, seen.axes[which].window(1, 1, -index))
        seen = replace(seen, layout=(*seen.layout[:dim], ((1, which),), *seen.layout[dim + 1 :]))
        seen = seen.collapse([dim], "indexing")
    return replace(seen, layout=seen.layout[:dim] + seen.layout[dim + 1 :], depthwise=None)


def _select(call: Call) -> list[Seen]:
    dim = call.bound["dim"] % len(call.only.layout)
    size = call.size(call.args[0])[dim]
    return [_pick(call.only, dim, call.bound["index"] % size)]


def _unbind(call: Call) -> list[Seen]:
    dim = call.bound["dim"] % len(call.only.layout)
    return [_pick(call.only, dim, i) for i in range(len(call.outputs))]


def _split(call: Call) -> list[Seen]:
    seen, at, parts = call.only, 0, []
    dim = call.bound["dim"] % len(seen.layout)
    which = seen.single(dim, "splitting")
    for out in call.outputs:
        part = seen
        if which is not None:
            part = seen.with_axis(which, seen.axes[which].window(1, 1, -at))
        parts.append(replace(part, depthwise=None).sized((*out.shape,)))
        at += out.shape[dim]
    return parts


def _cat(call: Call) -> list[Seen]:
    tensors = [t for t in call.args[0] if t.numel()]
    dim = call.bound["dim"] % len(call.shape)
    parts = [s for t in tensors if (s := call.of(t)) is not None]
    if any(part.axes_in(dim) for part in parts):
        raise Underivable("rows or columns are concatenated")
    return [replace(join(parts, call.shape, dim), depthwise=None)]


def _stack(call: Call) -> list[Seen]:
    dim = call.bound["dim"] % len(call.shape)
    parts = []
    for tensor in call.args[0]:
        if (seen := call.of(tensor)) is not None:
            layout = (*seen.layout[:dim], ((1, None),), *seen.layout[dim:])
            parts.append(replace(seen, layout=layout))
    return [replace(join(parts, call.shape, dim), depthwise=None)]


def _expand(call: Call) -> list[Seen]:
    return [join([call.only], call.shape)]


def _reverse(call: Call) -> list[Seen]:
    if any(call.only.axes_in(d) for d in dims_of(call, call.bound["dims"])):
        raise Underivable(f"{call.name} of rows or columns")
    return [call.only]


VIEW_RULES: dict[str, Callable[[Call], list[Seen]]] = {
    **dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pad),
    **dict.fromkeys(("view", "unsafe_view", "reshape", "reshape_alias", "flatten"), _reshape),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "slice": _slice,
    "select": _select,
    "unbind": _unbind,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "cat": _cat,
    "stack": _stack,
    "expand": _expand,
    **dict.fromkeys(("flip", "roll"), _reverse),
}
