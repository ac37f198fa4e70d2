"""The settings of a run: typed fields, TOML in and out, checks with one clear line each.

Torch-free: the app's form and every viewer use it too.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from trainer.errors import ConfigError
from trainer.files.regular_file import open_regular

Share = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(gt=0, le=1e38)]  # above is infinity in fp32
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=10**9)]

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,4})?")
DEVICES = "auto, cpu, cuda, cuda:N or mps"
"""The same in words."""
Tta = Literal["none", "flip", "flip+shift"]
NAME_LIMIT = 80
LARGEST_LIMIT = 10**12
DEEPEST = 20
"""Tables in tables in tables of a file: no setting lies deeper than three."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table: immutable, keyword only, unknown keys refused."""


class ModelSettings(Settings, frozen=True, kw_only=True):
    """Table ``[model]``."""

    name: Annotated[str, Meta(min_length=1)] = "dws-late"
    """A name from the registry, or ``file.py:Class``."""
    norm: Literal["batch", "layer", "group"] = "batch"
    """Normalisation after each convolution, where the net takes one."""
    options: dict[str, int | float | bool | str] = {}
    """Further keyword arguments of the net's builder."""


class AugmentSettings(Settings, frozen=True, kw_only=True):
    """Table ``[augment]``. Applied to training batches on the device; never to the test split."""

    flip: Literal["none", "random", "alternating"] = "random"
    """Horizontal flip: a coin per image and epoch, or alternating: each image every other epoch."""
    shift: Annotated[int, Meta(ge=0, le=16)] = 0
    """Random shift by up to so many pixels, borders filled by reflection."""
    shift_scale_rotate: Share = 0.0
    """Probability of a random shift, scale and rotation of an image."""
    shift_limit: Annotated[float, Meta(ge=0, le=0.5)] = 0.0625
    """Largest shift of shift-scale-rotate, as a share of the image's side."""
    scale_limit: Annotated[float, Meta(ge=0, le=0.9)] = 0.1
    """Largest relative change of size of shift-scale-rotate."""
    rotate_limit: Annotated[float, Meta(ge=0, le=180)] = 15.0
    """Largest rotation of shift-scale-rotate, in degrees."""
    dropout: Share = 0.0
    """Probability of coarse dropout: one square hole filled with the data set's mean."""
    dropout_size: Annotated[int, Meta(ge=1, le=32)] = 16
    """Side of the hole in pixels."""
    grayscale: Share = 0.0
    """Probability that an image becomes gray."""


class OptimizerSettings(Settings, frozen=True, kw_only=True):
    """Table ``[optimizer]``."""

    name: Literal["sgd", "adam", "adamw", "muon"] = "sgd"
    """sgd (Nesterov unless momentum is 0), adam, adamw, or muon: for convolution filters of more
    than one input, with sgd for the rest: linear layers, depthwise filters, norms and biases."""
    lr: Rate = 0.1
    """Peak learning rate."""
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Momentum of sgd and muon; beta1 of adam and adamw."""
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    """Second-moment decay of adam and adamw."""
    weight_decay: NotNegative = 0.0
    """L2 penalty: coupled in sgd, adam and the rest of muon, decoupled in adamw and for muon's
    filters; their norm is set anew at each step, so that there it does not add up over steps.
    Weights only, no biases and no norm parameters."""
    l1: NotNegative = 0.0
    """L1 penalty on the weights that have two dimensions or more, norms and biases left out."""
    aux_lr: NotNegative = 0.0
    """muon: learning rate of what it leaves to sgd; 0 means ``lr``."""


class ScheduleSettings(Settings, frozen=True, kw_only=True):
    """Table ``[schedule]``: the learning rate as a pure function of the step."""

    name: Literal["constant", "step", "cosine", "onecycle", "triangular", "linear"] = "onecycle"
    """The schedule's shape."""
    warmup: Share = 0.2
    """Share of the run until the peak (onecycle, triangular); linear warm-up for the others."""
    start_factor: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Learning rate at the first step as a share of the peak, where there is a warm-up."""
    end_factor: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Learning rate at the last step as a share of the peak (not for constant and step)."""
    step_epochs: Count = 10
    """step: epochs between two reductions."""
    gamma: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """step: factor of each reduction."""


class TrainSettings(Settings, frozen=True, kw_only=True):
    """Table ``[train]``."""

    epochs: Count = 20
    """Passes over the training split."""
    batch_size: Count = 128
    """Images per optimizer step."""
    low_resolution: Annotated[int, Meta(ge=0, le=32)] = 0
    """Side in pixels that images are shrunk to at first, growing by 4 at a time; 0 means never."""
    low_resolution_share: Share = 0.5
    """Share of the run's steps until images have their own size."""
    skip_easy: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the images, those with the least loss, left out of each late epoch; 0 means none."""
    skip_easy_from: Share = 0.5
    """Share of the epochs that see all images before the easy ones are left out."""
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Szegedy et al. 2016."""
    layer_stats: Annotated[int, Meta(ge=0, le=100)] = 4
    """Measurements per epoch of each layer's norms, gradients, updates and dead channels."""
    grad_clip: NotNegative = 0.0
    """Largest norm of the gradient over all parameters; 0 means no clipping."""
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential moving average of the weights; 0 means none."""
    early_stop: Annotated[int, Meta(ge=0)] = 0
    """Stop after so many evaluations without a better test accuracy; 0 means never."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    """Seed of weights, order and augmentation."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of convolutions and products; auto takes bf16 where the device multiplies in it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    processes: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Processes that train together, each on its part of every batch, on a GPU of its own or all on
    the CPU."""
    max_restarts: Annotated[int, Meta(ge=0, le=1000)] = 0
    """How often all processes are started anew when one has died."""
    channels_last: bool = True
    """Memory layout NHWC, faster for most nets."""
    compile: bool = False
    """torch.compile the net: slow to start. On a CPU in bf16 batch norm is faster without."""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """Record the step on a GPU and replay it; auto: not nets of your own, which may decide anew."""
    kernels: Literal["auto", "on", "off"] = "auto"
    """The program's own kernels for bf16; auto: on a CPU; on: on a GPU, too, where they join batch
    norm with pooling before and activation after it in recorded steps, and have not been timed."""


class EvaluateSettings(Settings, frozen=True, kw_only=True):
    """Table ``[evaluate]``."""

    every: Count = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    tta: Tta = "none"
    """Test-time augmentation of a second evaluation after the last epoch, reported apart."""
    batch_size: Count = 1000
    """Images per evaluation batch; on a CPU at most 500, which is quicker."""


class LimitSettings(Settings, frozen=True, kw_only=True):
    """Table ``[limits]``: the coursework's requirements, shown as ticks and crosses."""

    max_parameters: int | None = None
    """Fewer parameters than this."""
    min_receptive_field: int | None = None
    """A larger receptive field than this, before global pooling, along both axes."""
    depthwise_separable: int | None = None
    """At least so many depthwise separable convolutions."""
    dilated: int | None = None
    """At least so many dilated convolutions."""
    global_average_pooling: bool | None = None
    """Whether global average pooling is required."""
    no_fc_after_pooling: bool | None = None
    """Whether a fully connected layer after the pooling is forbidden."""
    target_accuracy: float | None = None
    """The test accuracy to reach, 0 to 1."""


class RunConfig(Settings, frozen=True, kw_only=True):
    """Everything that decides what a run does."""

    preset: str = ""
    """The preset it came from; for display."""
    name: str = ""
    """The run's name; free text for display, never a path."""
    description: str = ""
    """One line on what the preset is for."""
    data: Annotated[str, Meta(min_length=1)] = "cifar10"
    """cifar10, cifar100, synthetic, or a folder."""
    train_limit: Annotated[int, Meta(ge=0)] = 0
    """Use only the first so many training images, or as many of all classes where the set is sorted
    by class; 0 means all."""
    model: ModelSettings = ModelSettings()
    augment: AugmentSettings = AugmentSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    limits: LimitSettings = LimitSettings()


def from_mapping(values: Mapping[str, Any], *, origin: str = "configuration") -> RunConfig:
    """Convert and check a mapping.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type or is out of range.
    """
    try:
        config = msgspec.convert(values, RunConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {explain(error)}") from None
    check(config, origin=origin)
    return config


def check(config: RunConfig, *, origin: str = "configuration") -> None:
    """Check what the types cannot: finite numbers, the device's spelling, the name's length."""
    for path, value in _leaves(msgspec.to_builtins(config)):
        if isinstance(value, str) and not _is_utf8(value + path):
            raise ConfigError(f"{origin}: {path} is not UTF-8 text")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{origin}: {path} must be a finite number, not {value}")
    if not DEVICE.fullmatch(config.train.device):
        raise ConfigError(f"{origin}: device must be {DEVICES}, not {config.train.device!r}")
    if len(config.name) > NAME_LIMIT:
        raise ConfigError(
            f"{origin}: the run's name has {len(config.name)} characters, at most {NAME_LIMIT}"
        )
    _check_processes(config, origin)
    if config.train.skip_easy and config.train.processes > 1:
        raise ConfigError(f"{origin}: train.skip_easy needs train.processes = 1")
    if config.train.skip_easy and config.schedule.name == "step":
        raise ConfigError(f"{origin}: train.skip_easy does not go with schedule.name step")
    if config.optimizer.name != "muon" and config.optimizer.aux_lr:
        raise ConfigError(f"{origin}: optimizer.aux_lr belongs to muon only")


def check_limits(limits: LimitSettings) -> None:
    """Check the limits of a new run; runs of earlier versions may have others.

    Raises:
        ConfigError: no net can be within them, or every one is.
    """
    for name, value in msgspec.structs.asdict(limits).items():
        if isinstance(value, bool) or value is None:
            continue
        if value < 0:
            raise ConfigError(f"limits.{name} must not be below 0, but is {value}")
        if value > LARGEST_LIMIT:
            raise ConfigError(f"limits.{name} must be at most {LARGEST_LIMIT}, but is {value}")
    if (target := limits.target_accuracy) is not None and target > 1:
        raise ConfigError(f"limits.target_accuracy is a share, 0 to 1, not {target:g}")


def _check_processes(config: RunConfig, origin: str) -> None:
    train = config.train
    if train.processes > train.batch_size:
        raise ConfigError(
            f"{origin}: {train.processes} processes cannot share a batch of {train.batch_size} "
            "images: raise train.batch_size"
        )
    if train.processes > 1 and train.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"{origin}: {train.processes} processes need train.device auto, cpu or cuda, "
            f"not {train.device}"
        )


def to_mapping(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain dictionaries, without what is unset."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    values["limits"] = {k: v for k, v in values["limits"].items() if v is not None}
    return values


def to_toml(config: RunConfig) -> str:
    """The configuration as TOML; ``from_toml`` reads it back to an equal one."""
    return tomli_w.dumps(to_mapping(config))


def from_toml(text: str, *, origin: str = "configuration") -> RunConfig:
    """Read a configuration from TOML.

    Raises:
        ConfigError: no valid TOML, or as ``from_mapping``.
    """
    return from_mapping(parse_toml(text, origin=origin), origin=origin)


@lru_cache(maxsize=64)
def of_log(text: str) -> RunConfig | None:
    """The configuration that a run's log has as TOML; ``None`` when it cannot be read."""
    try:
        return from_toml(text)
    except ConfigError:
        return None


def parse_toml(text: str, *, origin: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ConfigError: no TOML, with the place; or tables too deep for what walks through them.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{origin}: not valid TOML: {error}") from None
    level: list[dict[str, Any]] = [values]
    for _ in range(DEEPEST):
        level = [value for table in level for value in table.values() if isinstance(value, dict)]
    if level:
        raise ConfigError(f"{origin}: tables lie more than {DEEPEST} deep in one another")
    return values


def read_file(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, unchecked.

    Raises:
        ConfigError: the file cannot be read or is no TOML.
    """
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read {path}: {reason}") from None
    return parse_toml(text, origin=str(path))


def override(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Apply ``key=value`` settings (``optimizer.lr=0.05``) to a mapping; the value is TOML.

    A value that is no TOML is taken as a string, so ``--set model.norm=group`` works unquoted.

    Raises:
        ConfigError: a setting without ``=`` or with an empty key.
    """
    result = _copy(values)
    for setting in settings:
        key, equals, text = setting.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"--set needs key=value, for example optimizer.lr=0.05, not {setting!r}"
            )
        try:
            value = tomllib.loads(f"value = {text.strip()}")["value"]
        except (ValueError, RecursionError):
            value = text.strip()
        table = result
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {setting}: {part} is no table")
        table[parts[-1]] = value
    return result


def setting(key: str, value: object) -> str:
    """A value as ``override`` takes it, whatever is in it: ``data="/my data"``."""
    return f"{key}={tomli_w.dumps({'v': value}).removeprefix('v = ').strip()}"


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _leaves(values: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, values


def _is_utf8(text: str) -> bool:
    """Whether it can be written: an argument that is no UTF-8 arrives with lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def explain(error: msgspec.ValidationError, kind: type[msgspec.Struct] = RunConfig) -> str:
    """Turn ``Expected `int` >= 1 - at `$.train.epochs``` into a user's line.

    Args:
        error: of the conversion to ``kind``, whose choices it names where a value is none of them.
    """
    message, _, place = str(error).partition(" - at ")
    place = place.strip("`").removeprefix("$.").removeprefix("$")
    message = message.replace("Object contains unknown field", "unknown key")
    message = message.replace("Expected", "expected", 1)
    message = message.replace("Invalid enum value", "unknown value", 1)
    if choices := choices_of(kind, place):
        message += f": choose {', '.join(choices[:-1])} or {choices[-1]}"
    return f"{place}: {message}" if place else message


def choices_of(kind: Any, place: str) -> tuple[str, ...]:
    """The values that a field takes, by its path such as ``train.precision``; () for any."""
    for part in place.split("."):
        name, _, item = part.partition("[")
        kind = get_type_hints(kind).get(name) if isinstance(kind, type) else None
        if item:
            kind = next(iter(get_args(kind)), None)
    return get_args(kind) if get_origin(kind) is Literal else ()
