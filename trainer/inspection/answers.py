"""What a run's net makes of one test image: loads a checkpoint and answers questions.

One path for the command line and for the app, whose inspector process uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model import penultimate, registry, user_file
from model.checks import check_output
from model.effective_receptive_field import EffectiveField, effective_receptive_field
from model.errors import ModelError
from model.grad_cam import NoGradient, conv_layers, grad_cam
from model.receptive_field import gradient_intervals
from model.summary import summarize
from trainer import device as devices
from trainer.analysis import pictures
from trainer.analysis.mistakes import class_names
from trainer.config import AugmentSettings, RunConfig
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError, DataError, RunError
from trainer.inspection import features
from trainer.inspection.features import TrainingFeatures
from trainer.lifecycle.submit import read_config
from trainer.loop.augment import Augment
from trainer.runs import checkpoint, net_files, same_data
from trainer.runs.follower import Follower
from trainer.runs.origin import check_origin
from trainer.runs.rundir import RunDir

FIELD_IMAGES = 32
"""Test images that an effective receptive field is averaged over."""
BATCH = {"cpu": 100, "cuda": 1000}
CHECKPOINT_BYTES = 4 << 30
"""At most, of a run that may be another's: with Adam's state a net of 300 million parameters."""
SPARE_BYTES = 400 << 20
"""For torch's own needs and a batch's activations."""
T = TypeVar("T")
Box = tuple[int, int, int, int]
"""First and last row, first and last column."""


@dataclass(frozen=True)
class ReceptiveField:
    """Of the centre unit of a layer."""

    size: tuple[int, int] | None
    """Theoretical rows and columns, not clipped; ``None`` where it cannot be derived."""
    box: Box | None
    """The theoretical one on the image, clipped to it; ``None`` where it cannot be probed."""
    effective: EffectiveField | None
    """``None`` where the net keeps no gradients."""


@dataclass(frozen=True)
class Neighbour:
    """A training image."""

    index: int
    """In the whole training split, also where the run trained on a part of it."""
    label: int
    similarity: float
    """Cosine of the angle between the features, -1 to 1."""
    position: int
    """Among the images that the run trained on."""


@dataclass(eq=False)
class Inspection:
    """A net with a checkpoint's weights, in eval mode and fp32, and its data set."""

    run: RunDir
    role: str
    epoch: int
    """The weights are those after this epoch, or from within it."""
    net: nn.Module
    dataset: Dataset
    device: torch.device
    identity: str
    """Of weights and training images: features of others are not taken."""

    def __post_init__(self) -> None:
        self._sizes: dict[str, tuple[int, int] | None] = {}
        self._without_place: set[str] = set()
        """Convolutions after pooling, also those that only weigh channels: all see the image."""
        self._augment = Augment(
            AugmentSettings(),
            mean=self.dataset.mean,
            std=self.dataset.std,
            device=self.device,
            dtype=torch.float32,
        )
        self.layers = conv_layers(self.net)
        with suppress(ModelError):
            rows = summarize(self.net).layers
            self._sizes = {row.path: row.receptive_field for row in rows}
            self._without_place = {row.path for row in rows if row.output_shape[1:] == (1, 1)}
        self._last = _guarded(
            lambda: penultimate.last_layer(self.net, self.normalised("test", 0, 2))
        )
        self._fields: dict[str, ReceptiveField] = {}
        self._features: TrainingFeatures | None = None
        self._done: list[NDArray[np.float16]] = []

    def normalised(self, split: Literal["train", "test"], start: int, count: int = 1) -> Tensor:
        """Images as the net takes them, [B, 3, 32, 32] on the device."""
        images = (self.dataset.test if split == "test" else self.dataset.train).images
        batch = torch.from_numpy(images[start : start + count]).to(self.device)
        return self._augment.normalise(batch)

    def check(self, index: int, layer: str = "") -> str:
        """The layer; by default the last convolution of those that see the most.

        The last of all may be a 1x1 shortcut beside what the net is made of. Empty where there is
        no convolution.

        Raises:
            RunError: there is no such test image or convolution.
        """
        images = len(self.dataset.test.labels)
        if not 0 <= index < images:
            raise RunError(f"there is no test image {index}: 0 to {images - 1}")
        if layer and layer not in self.layers:
            raise RunError(
                f"the net has no convolution {layer!r}: "
                + (", ".join(self.layers[:12]) or "it has none over images")
                + (", …" if len(self.layers) > 12 else "")
            )
        return layer or max(
            reversed(self.layers),
            key=lambda path: (path not in self._without_place, self._sizes.get(path) or (0, 0)),
            default="",
        )

    def probabilities(self, index: int) -> Tensor:
        """Of all classes, float32 [C] on the CPU; without test-time augmentation."""
        _, scores = self._forward(self.normalised("test", index))
        return scores[0].softmax(0).cpu()

    def grad_cam(self, index: int, layer: str, of_class: int) -> Tensor | None:
        """As ``model.grad_cam``: float32 [32, 32], 0 to 1.

        ``None`` without gradients, or without a layer.
        """
        if not layer:
            return None
        image = self.normalised("test", index)
        with suppress(NoGradient):
            return _guarded(lambda: grad_cam(self.net, image, layer, of_class))
        return None

    def receptive_field(self, layer: str) -> ReceptiveField:
        """Theoretical and effective, of the centre unit; computed once for each layer.

        Without a layer nothing is known.
        """
        if not layer:
            return ReceptiveField(None, None, None)
        if layer not in self._fields:
            images = self.normalised("test", 0, FIELD_IMAGES)
            effective, box = None, None
            with suppress(NoGradient):
                effective = _guarded(lambda: effective_receptive_field(self.net, images, layer))
            with suppress(ModelError):
                (top, bottom), (left, right) = gradient_intervals(self.net, at=layer)
                box = (top, bottom, left, right)
            self._fields[layer] = ReceptiveField(self._sizes.get(layer), box, effective)
        return self._fields[layer]

    @property
    def has_features(self) -> bool:
        """Whether ``nearest`` answers at once: the features are in memory, or in the cache."""
        if self._features is None:
            images = len(self.dataset.train.labels)
            found = features.load(self.run.features(self.role), self.identity, images)
            if found is not None:
                self._features = TrainingFeatures(torch.from_numpy(found))
        return self._features is not None

    def compute_features(self, on_batch: Callable[[int, int], None] = lambda *_: None) -> None:
        """Compute the features of all training images and keep them in the run's folder.

        Args:
            on_batch: called with the images done and all of them before each batch; it may wait,
                or raise to end it: the next call goes on there.

        Raises:
            RunError: the net fails.
        """
        size = BATCH.get(self.device.type, 100)

        def batch(start: int) -> Tensor:
            return self._forward(self.normalised("train", start, size))[0]

        found = features.compute(
            batch,
            len(self.dataset.train.labels),
            batch_size=size,
            on_batch=on_batch,
            done=self._done,
        )
        self._done = []
        self._features = TrainingFeatures(torch.from_numpy(found))
        with suppress(OSError, RunError):  # a folder of others, a full disk: kept in memory only
            self.run.refuse_links()
            features.save(found, self.identity, self.run.features(self.role))

    def nearest(self, index: int, count: int = 8) -> tuple[Neighbour, ...]:
        """Training images nearest to a test image by cosine similarity of their features.

        Raises:
            RunError: the features are not computed yet, or the net fails.
        """
        if not self.has_features or self._features is None:
            raise RunError("the features of the training images are not computed yet")
        feature, _ = self._forward(self.normalised("test", index))
        labels = self.dataset.train.labels
        return tuple(
            Neighbour(self.dataset.train_index(i), int(labels[i]), similarity, i)
            for i, similarity in self._features.nearest(feature[0], count)
        )

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return _guarded(lambda: penultimate.features(self.net, images, self._last))


def open_inspection(
    run: RunDir,
    role: str = "",
    *,
    data: str = "",
    only_there: bool = False,
    data_dir: Path | None = None,
    device: str = "auto",
    trusted: bool = False,
    changed_net: bool = False,
) -> Inspection:
    """Load a run's net with a checkpoint's weights, and its data set.

    Args:
        run: in any state.
        role: ``best`` or ``last``; by default the best there is.
        data: where to look for the data set besides where the run had it.
        only_there: look for it nowhere else, where ``data`` says where.
        data_dir: where downloaded sets lie.
        device: of the net; ``auto`` leaves a GPU alone whose memory is short.
        trusted: whether a net of the user's own file may be run: it is code, and the run may
            come from someone else.
        changed_net: whether it is taken although its files were changed since.

    Raises:
        UserError: no checkpoint, or a damaged one, weights that do not fit, the data set is gone
            or differs, a net that is not trusted or was changed since, memory is short.
    """
    if role not in ("", "best", "last"):
        raise ConfigError("--checkpoint is best or last")
    config = read_config(run)
    if user_file.is_file(config.model.name):
        if not trusted:
            raise NotTrusted(f"the net is code of the file {config.model.name}")
        check_origin(run, config)
        if not changed_net:
            net_files.check(run, config)
    role = role or ("best" if run.has_checkpoint("best") else "last")
    path = run.checkpoint(role)
    with suppress(OSError):
        if (size := path.stat().st_size) <= CHECKPOINT_BYTES:
            _check_memory(2 * size)  # as it is in the file, and unpacked
    packed = checkpoint.read(path, limit=CHECKPOINT_BYTES)
    state = checkpoint.unpack(packed, f"{role}.pt")
    if not changed_net:
        net_files.check_weights(run, config, _step(state), path.name)
    dataset = _dataset(run, config, state, data, data_dir, only_there=only_there)
    net = _net(config, dataset, state, role)
    if not changed_net:  # an edit meanwhile
        net_files.check(run, config, user_file.sources())
    digest = hashlib.sha256(packed)
    digest.update(dataset.train.images.data)
    digest.update(net_files.identity(run, config).encode())
    chosen = _device(device)
    return Inspection(
        run, role, _epoch(state), net.to(chosen).eval(), dataset, chosen, digest.hexdigest()
    )


class NotTrusted(RunError):  # noqa: N818  # a question to the user
    """The run's net is code of a file, which is not run before the user has said so."""


def _dataset(
    run: RunDir,
    config: RunConfig,
    state: dict[str, Any],
    data: str,
    data_dir: Path | None,
    *,
    only_there: bool,
) -> Dataset:
    fingerprint = state.get("fingerprint")
    if not isinstance(fingerprint, str):
        raise RunError("the checkpoint does not say which data set it was trained on")
    folded = Follower(run).catch_up()
    places = (data,) if data and only_there else pictures.candidates(folded, data)
    differs: DataError | None = None
    while True:
        try:
            source, test = pictures.load(places, fingerprint, data_dir=data_dir)
        except DataError as error:
            raise differs or error from None
        size = test.test.images.nbytes
        _check_memory(7 * size)  # the training images five times, while they are read
        try:
            dataset = same_data.load(source, config, data_dir=data_dir)
            same_data.check(state, dataset)
        except DataError as error:
            differs = differs or error
            places = places[places.index(source) + 1 :]
        else:
            # the same images elsewhere may have other names; those of the run are its evaluations'
            names = folded.started.classes if folded.started is not None else dataset.classes
            return replace(dataset, classes=class_names(names, len(dataset.classes)))


def _net(config: RunConfig, dataset: Dataset, state: dict[str, Any], role: str) -> nn.Module:
    try:
        net = registry.build(
            config.model.name,
            classes=len(dataset.classes),
            norm=config.model.norm,
            options=config.model.options,
        )
        with user_file.importable(config.model.name):
            check_output(net, len(dataset.classes))
    except ModelError as error:
        raise ConfigError(str(error)) from None
    weights = state.get("net")
    try:
        if not isinstance(weights, dict):
            raise TypeError
        net.load_state_dict(weights)
    except Exception:  # torch tells each wrong name on a line of its own
        raise RunError(f"the weights of the checkpoint {role}.pt do not fit the net") from None
    return net


def _epoch(state: dict[str, Any]) -> int:
    position = state.get("position")
    epoch = position.get("epoch") if isinstance(position, dict) else 0
    batch = position.get("batch") if isinstance(position, dict) else 0
    if not isinstance(epoch, int) or not isinstance(batch, int):
        return 0
    # at an epoch's end ``last`` stands at the first batch of the next one
    return epoch - 1 if batch == 0 else epoch


def _step(state: dict[str, Any]) -> int:
    position = state.get("position")
    step = position.get("step") if isinstance(position, dict) else 0
    return step if isinstance(step, int) else 0


def _device(name: str) -> torch.device:
    device = devices.resolve(name)
    if device.type == "cuda" and name == "auto":
        free, _ = torch.cuda.mem_get_info(device)
        if free < 4 * SPARE_BYTES:
            return torch.device("cpu")
    return torch.device("cpu") if device.type == "mps" and name == "auto" else device


def _check_memory(needed: int) -> None:
    free = psutil.virtual_memory().available
    if free < needed + SPARE_BYTES:
        raise RunError(
            f"memory is short: {(needed + SPARE_BYTES) / 1e9:.1f} GB are needed to look into the "
            f"net, {free / 1e9:.1f} GB are free"
        )


def _guarded(compute: Callable[[], T]) -> T:
    try:
        return compute()
    except NoGradient:
        raise
    except ModelError as error:
        raise RunError(str(error)) from None
