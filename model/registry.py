"""Nets by name, and the user's own from a file. Importing this module does not import torch."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from model import user_file
from model.errors import ModelError, clean

if TYPE_CHECKING:
    from torch import nn

NORMS = ("batch", "layer", "group", "none")
"""Choices of the ``norm`` argument."""

_TABLE: dict[str, tuple[str, str]] = {
    "standard": (
        "model.coursework:Standard",
        "coursework, first model: standard convolutions, about 500k parameters",
    ),
    "dws-normal": (
        "model.coursework:DwsNormal",
        "coursework, normal: under 200k parameters, RF > 44, three strided convolutions",
    ),
    "dws-late": (
        "model.coursework:DwsLate",
        "coursework, late: under 100k parameters, RF > 52, no FC after the pooling",
    ),
    "tiny": (
        "model.tiny:Tiny",
        "under 100k parameters: residual depthwise separable layers",
    ),
    "resnet8": ("model.resnet:resnet8", "ResNet-8 of MLPerf Tiny, 78k parameters"),
    "resnet20": ("model.resnet:resnet20", "ResNet-20 of He et al. 2015 for CIFAR, 270k parameters"),
    "resnet18": ("model.resnet:resnet18", "ResNet-18 with a 3x3 stem for CIFAR, 11 M parameters"),
    "fast": ("model.fast:Fast", "small wide net in the manner of airbench: whitening, GELU, Muon"),
}


def names() -> tuple[str, ...]:
    """All registered names, in the order they are shown."""
    return tuple(_TABLE)


def describe(name: str) -> str:
    """One line about a registered net.

    Raises:
        ModelError: no such name.
    """
    return _entry(name)[1]


def build(
    spec: str,
    *,
    classes: int = 10,
    norm: str = "batch",
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A new net with random weights (torch's global generator).

    Args:
        spec: a registered name, or ``path/to/file.py:Class`` (a function works as well).
        classes: number of outputs; given to the user's class where its signature takes
            ``classes`` or ``num_classes``.
        norm: one of ``NORMS``; given to the user's class where its signature takes it.
        options: further keyword arguments of the net.

    Raises:
        ModelError: unknown name, norm or option, or a file that does not yield a net.
    """
    if norm not in NORMS:
        raise ModelError(f"unknown norm {clean(norm)!r}: choose {', '.join(NORMS)}")
    if user_file.is_file(spec):
        with user_file.loaded(spec) as make:
            return _call(make, clean(spec), classes, norm, dict(options or {}))
    module, _, attribute = _entry(spec)[0].partition(":")
    make = getattr(importlib.import_module(module), attribute)
    return _call(make, spec, classes, norm, dict(options or {}))


def look_up(spec: str) -> str:
    """The file that a model's name means; empty for a built-in net.

    Raises:
        ModelError: there is no such built-in net, or no class of the file is named.
    """
    if user_file.is_file(spec):
        return user_file.split(spec)[0]
    describe(spec)
    return ""


def _entry(name: str) -> tuple[str, str]:
    try:
        return _TABLE[name]
    except KeyError:
        near = difflib.get_close_matches(name, _TABLE, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose {', '.join(_TABLE)}"
        raise ModelError(
            f"unknown model {clean(name)!r}: {hint} (your own: file.py:Class)"
        ) from None


def _call(
    make: Callable[..., Any], label: str, classes: int, norm: str, options: dict[str, Any]
) -> nn.Module:
    """Call a constructor with those of our arguments that it takes, and check what it returns."""
    import torch

    try:
        takes = dict(inspect.signature(make).parameters)
    except (TypeError, ValueError):
        takes = {}
    given: dict[str, Any] = {}
    for name in ("classes", "num_classes"):
        if name in takes and not given:
            given[name] = classes
    # a default that is no string (a norm class, say) means something else by the same name
    default = takes["norm"].default if "norm" in takes else 0
    if default in (None, inspect.Parameter.empty) or isinstance(default, str):
        given["norm"] = norm
    elif norm != "batch":
        raise ModelError(f"{label} takes no norm: leave model.norm out")
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        for option in options:
            if option not in takes or option in given:
                free = ", ".join(n for n in takes if n not in given) or "none"
                raise ModelError(
                    f"{label} has no option {clean(option)!r} (its options: {clean(free)})"
                )
    with user_file.told_as(f"cannot build {label}"):
        net = make(**given, **options)
    if not isinstance(net, torch.nn.Module):
        raise ModelError(f"{label} is not a torch.nn.Module but a {type(net).__name__}")
    return net
