"""The events of a run: everything that is shown is a fold over them.

Frozen structs of scalars, strings and tuples, never tensors. A number that is not finite is stored
as null and announced by a ``Notice``. New fields have defaults; kinds are never renamed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

VERSION = 1

Phase = Literal["train", "test"]
Variant = Literal["plain", "ema", "tta"]
EndState = Literal["completed", "stopped", "failed"]
Level = Literal["info", "warning", "error"]
Role = Literal["last", "best"]
"""Of a checkpoint."""

# bounds that no real run reaches: what lies outside is a damaged line, not a crash of the reader
Whole = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=-60_000_000_000, le=253_402_300_799)]
Share = Annotated[float, Meta(ge=0, le=1)]
LARGEST = 1e60
"""fp32 ends at 3.4e38; differences and sums of a few such numbers are finite."""
Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]

CLASSES = 1000
LAYERS = 10_000
"""At most; a confusion matrix of them is a line of two megabytes."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", gc=False):
    """Base of all events. They form no cycles: the garbage collector need not look at them."""


class RunQueued(Event, tag="RunQueued", frozen=True, kw_only=True):
    """The run waits for its turn: first event of every run, and again when it is resumed."""

    name: str
    preset: str
    model: str
    data: str
    epochs: Whole
    config: str
    """The whole configuration as TOML."""
    before: EndState | None = None
    """How the attempt ended from whose checkpoint it is to go on."""


class Rank(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One of several processes that train a run."""

    host: str
    pid: Whole
    device: str


class RunStarted(Event, tag="RunStarted", frozen=True, kw_only=True):
    """Data and net are ready, training begins."""

    device: str
    """For example ``cpu`` or ``cuda:0 NVIDIA H200``."""
    precision: str
    steps_per_epoch: Whole
    """Of an epoch that leaves no image out."""
    batch_size: Whole
    train_images: Whole
    test_images: Whole
    classes: Annotated[tuple[str, ...], Meta(max_length=CLASSES)]
    data_kind: str
    """cifar10, cifar100, synthetic or folder: what the images really are."""
    data_source: str
    data_fingerprint: str
    """SHA-256 over the test split's images and labels."""
    host: str = ""
    pid: Whole = 0
    torch: str = ""
    threads: Whole = 0
    total_steps: Whole = 0
    """Of the whole run; 0 in logs of earlier versions, where all epochs have the same steps."""
    ranks: tuple[Rank, ...] = ()
    """The processes that train together, in the order of their ranks; empty when it is one."""
    resumed_step: Whole | None = None
    """Set when an earlier attempt goes on: points past this step are dropped by the fold."""


class LayerRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the layer table; sizes are (height, width)."""

    path: str
    type: str
    input_shape: tuple[Whole, ...]
    output_shape: tuple[Whole, ...]
    parameters: Whole
    share: Number
    macs: Whole | None
    kernel: tuple[Whole, Whole] | None = None
    stride: tuple[Whole, Whole] | None = None
    padding: tuple[int, int] | None = None
    """On either side; None where both are not the same."""
    dilation: tuple[Whole, Whole] | None = None
    groups: Whole | None = None
    jump: tuple[Whole, Whole] | None = None
    receptive_field: tuple[Whole, Whole] | None = None
    pooled: bool = False
    """Whether it is the greater of what windows and pooled features see, as behind a gate."""
    reason: str = ""
    """Why the receptive field is unknown."""
    joins: bool | None = None
    """Whether it joins several tensors, as an addition; None in older logs."""


class ModelDescribed(Event, tag="ModelDescribed", frozen=True, kw_only=True):
    """The layer table and its totals."""

    layers: tuple[LayerRow, ...]
    parameters: Whole
    trainable_parameters: Whole
    macs: Whole | None
    """Multiply-adds per image."""
    receptive_field: tuple[Whole, Whole] | None
    """At the last convolution or pooling before global pooling, not clipped to the image."""
    depthwise_separable: Whole | None = 0
    """None, here and below, where the net cannot be followed so far."""
    dilated: Whole = 0
    strided3x3: Whole = 0
    max_pools: Whole = 0
    global_average_pooling: bool | None = False
    fc_after_pooling: bool | None = False
    input_shape: tuple[Whole, ...] = (3, 32, 32)
    """Of an image: that of all runs whose log is older than this field."""


class EpochStarted(Event, tag="EpochStarted", frozen=True, kw_only=True):
    """An epoch begins; epochs count from 1."""

    epoch: Whole
    step: Whole


class Progress(Event, tag="Progress", frozen=True, kw_only=True):
    """At most a few a second. Loss and accuracy are means over the images since the last one."""

    phase: Phase
    epoch: Whole
    step: Whole
    """Optimizer steps done in the whole run (train), unchanged while evaluating."""
    done: Whole
    """Batches done in this epoch or evaluation."""
    total: Whole
    loss: Number | None = None
    accuracy: Share | None = None
    lr: Number | None = None
    images_per_second: float | None = None
    """Without bounds: nothing is computed of it, and each costs half a per cent of the decoding."""
    memory: Whole | None = None
    """Bytes of the device's memory that torch holds, or of the process on a CPU."""


class Ranks(Event, tag="Ranks", frozen=True, kw_only=True):
    """Figures of the processes that train together, by rank, every few seconds."""

    step: Whole
    images_per_second: tuple[Number, ...]
    memory: tuple[Whole, ...]
    """Bytes, as in ``Progress``."""


Measured = Annotated[tuple[Number | None, ...], Meta(max_length=LAYERS)]


class LayerStats(Event, tag="LayerStats", frozen=True, kw_only=True):
    """What each layer did in one optimizer step; None where it is not a finite number."""

    epoch: Whole
    step: Whole
    layers: Annotated[tuple[str, ...], Meta(max_length=LAYERS)] = ()
    """Paths of the modules with parameters; the next three are in their order."""
    weight_norm: Measured = ()
    """Before the step."""
    gradient_norm: Measured = ()
    """Before clipping."""
    update_ratio: Measured = ()
    """log10 of the update's norm over the weights'."""
    activations: Annotated[tuple[str, ...], Meta(max_length=LAYERS)] = ()
    """Paths of the activation modules, one for each call; each module's calls in their order."""
    dead: Measured = ()
    """Share of its output's channels without a value above 0 in the batch, 0 to 1, of several
    processes in rank 0's part of it; of a module that is here once but called more often, as in
    older logs, the mean over its calls."""
    reason: str = ""
    """Why no activations were looked at; in older logs, of compiled nets."""


class EpochEnded(Event, tag="EpochEnded", frozen=True, kw_only=True):
    """Training part of an epoch: means over its images, measured while the weights changed."""

    epoch: Whole
    step: Whole
    loss: Number | None
    accuracy: Share | None
    lr: Number
    seconds: Seconds
    """Of training alone, evaluation not counted."""
    images_per_second: Number
    images: Whole = 0
    """Trained on in this epoch, of which loss and accuracy are; 0: not told (earlier versions)."""
    hardest: bool | None = None
    """Whether they were the hardest ones, easy ones left out; None: not told (earlier versions)."""


class EvalEnded(Event, tag="EvalEnded", frozen=True, kw_only=True):
    """An evaluation of a whole split."""

    epoch: Whole
    step: Whole
    split: Literal["test"]
    variant: Variant
    loss: Number | None
    accuracy: Share
    correct: Whole
    images: Whole
    per_class: Annotated[tuple[Share | None, ...], Meta(max_length=CLASSES)]
    """Accuracy by actual class; null where the split has no image of it."""
    confusion: Annotated[tuple[tuple[Whole, ...], ...], Meta(max_length=CLASSES)]
    """Counts, rows: actual class, columns: predicted class."""
    seconds: Seconds


class PredictionsSaved(Event, tag="PredictionsSaved", frozen=True, kw_only=True):
    """Class probabilities of every image of a split, as ``.npz`` in the run's folder."""

    epoch: Whole
    step: Whole
    split: Literal["test"]
    variant: Variant
    path: str
    """Relative to the run's folder."""
    images: Whole


class CheckpointSaved(Event, tag="CheckpointSaved", frozen=True, kw_only=True):
    """A checkpoint is whole on disk."""

    role: Role
    epoch: Whole
    """That is being trained; of ``last`` at an epoch's end the one that comes next."""
    step: Whole
    path: str


class Paused(Event, tag="Paused", frozen=True, kw_only=True):
    """Training waits."""

    step: Whole


class Resumed(Event, tag="Resumed", frozen=True, kw_only=True):
    """Training goes on after a pause of so many seconds."""

    step: Whole
    seconds: Seconds


# codes of notices that others than their readers wait for
NOT_A_NUMBER = "not-a-number"
RANK_LOST = "rank-lost"
DISK_FULL = "disk-full"
DISK_ERROR = "disk-error"
DISK_WRITABLE = "disk-writable"
PREPARING = "preparing"
COMPILE = "compile"
LOG_GAP = "log-gap"
NOT_SAVED = "-not-saved"
"""Behind the kind of a file; so is ``SAVED_AGAIN``, which says that it is over."""
SAVED_AGAIN = "-saved-again"


class Notice(Event, tag="Notice", frozen=True, kw_only=True):
    """Something the user should know."""

    level: Level
    code: str
    """Short and stable, for scripts: ``not-a-number``, ``disk-full``, … Any: logs of other versions
    have others than those above."""
    message: str


class RunEnded(Event, tag="RunEnded", frozen=True, kw_only=True):
    """The last event of an attempt."""

    state: EndState
    best_accuracy: Share | None = None
    """Best plain test accuracy."""
    best_epoch: Whole | None = None
    final_accuracy: Share | None = None
    seconds: Seconds = 0.0
    """Of the attempt, pauses not counted."""
    error: str | None = None
    """One line; set when failed, and when a run that was stopped could not go on."""


AnyEvent = (
    RunQueued
    | RunStarted
    | ModelDescribed
    | EpochStarted
    | Progress
    | Ranks
    | LayerStats
    | EpochEnded
    | EvalEnded
    | PredictionsSaved
    | CheckpointSaved
    | Paused
    | Resumed
    | Notice
    | RunEnded
)


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every event is wrapped in, stamped in one place: the run log's writer."""

    v: Whole
    run: str
    attempt: Whole
    seq: Whole
    """Counts from 0 over all attempts, without gaps."""
    time: Seconds
    """Wall clock, seconds since 1970."""
    elapsed: Seconds
    """Monotonic seconds of this attempt."""
    event: AnyEvent


def finite(value: float) -> float | None:
    """The value, or ``None`` when it is not a finite number: what the log stores for it.

    Beyond ``LARGEST`` counts as infinite.
    """
    return value if abs(value) <= LARGEST else None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    """One line of JSON, newline included."""
    return _encoder.encode(envelope) + b"\n"


def decode(line: bytes) -> Envelope:
    """The envelope of one line.

    Raises:
        msgspec.DecodeError: no JSON, or no envelope that this version knows.
    """
    try:
        return _decoder.decode(line)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def decode_lines(lines: bytes) -> list[Envelope] | None:
    """The envelopes of whole lines in half the time of one by one; ``None``: do it one by one.

    That is where anything is damaged, and where there are not as many envelopes as lines.
    """
    try:
        found: list[Envelope] = _decoder.decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if len(found) == lines.count(b"\n") else None
