"""What the app and the worker process say to each other: JSON lines on its pipes. Torch-free."""

from __future__ import annotations

import msgspec


class Job(msgspec.Struct, frozen=True):
    """A line on the worker's stdin: a run to train."""

    run: str
    """Its folder."""
    data_dir: str | None = None
    resume: bool = False
    """Whether it is an old run: it goes on from the checkpoint ``last`` if that is there."""
    on_end: str = ""
    """A command to start when the run has ended."""


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line on the worker's stdout; unknown fields are ignored."""

    state: str
    """loading, ready, training, idle, failed, refused or inspected."""
    run: str = ""
    torch: str = ""
    device: str = ""
    devices: tuple[str, ...] = ()
    threads: int = 0
    error: str = ""
    inspected: Inspected | None = None
    """With the state ``inspected``."""


class Inspect(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run's net makes of a test image; without a run, nothing more is wanted."""

    ask: int
    """A number that the answers repeat; answers to earlier questions may still come."""
    run: str = ""
    """Its folder."""
    checkpoint: str = ""
    """best or last; empty: the best there is."""
    index: int = 0
    layer: str = ""
    """A convolution; empty, or one that the net does not have: the one that sees the most."""
    of_class: int = -1
    """Whose Grad-CAM; the predicted class by default."""
    neighbours: int = 8
    data: str = ""
    """Where to look for the data set besides where the run had it."""
    data_dir: str | None = None
    trusted: bool = False
    """Whether a net of a file, which is code, may be run."""


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line on the worker's stdin that is no job; the inspector's stdin has only these."""

    inspect: Inspect | None = None
    busy: bool | None = None
    """Whether a training goes on, told to the inspector: it takes one thread then."""


class Near(msgspec.Struct, frozen=True):
    """A training image near the one asked for, in feature space."""

    index: int
    label: int
    similarity: float
    """Cosine, -1 to 1."""
    pixels: bytes
    """uint8 [3, 32, 32]."""


class Inspected(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer. The neighbours may come later than the rest: then it is told once more."""

    ask: int
    error: str = ""
    """Why there is nothing else."""
    needs_trust: bool = False
    """The net is code of a file: ask again with ``trusted`` if it may be run."""
    index: int = 0
    checkpoint: str = ""
    epoch: int = 0
    probabilities: tuple[float, ...] = ()
    layers: tuple[str, ...] = ()
    """All convolutions of the net; without one there is no Grad-CAM and no receptive field."""
    layer: str = ""
    """The one that the rest is of; empty where there is none."""
    of_class: int = 0
    cam: bytes = b""
    """Grad-CAM, uint8 [32, 32]; empty where the net keeps no gradients, or without a layer."""
    field_size: tuple[int, int] | None = None
    """Theoretical receptive field of the layer's centre, rows and columns, not clipped."""
    field_box: tuple[int, int, int, int] | None = None
    """The same on the image, clipped: first and last row, first and last column."""
    effective: bytes = b""
    """Mean absolute gradient, uint8 [32, 32]; empty where Grad-CAM is."""
    effective_box: tuple[int, int, int, int] | None = None
    """Holds 95 % of it."""
    neighbours: tuple[Near, ...] | None = None
    """The nearest first; ``None``: not known yet."""
    computing: tuple[int, int] | None = None
    """Training images whose features are computed, and all of them."""
