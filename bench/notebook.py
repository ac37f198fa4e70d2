"""The notebook's way against the engine: images per second on the same net, batch and augmentation.

    python bench/notebook.py --data FOLDER [--model dws-normal] [--rounds 3] [--steps 40]
        [--compile] [--json]

The notebook's way, as the coursework's public solutions do it: a DataLoader, torchvision
transforms image by image, fp32, `loss.item()` at each step. The engine trains as the presets of
these nets do; with --compile under torch.compile, before its time begins. Both sides run in turn,
each in a process of its own and after a pause in which the loader fills its queue; batches that
were waiting there are not counted. The medians and their ratio are printed, as JSON with --json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import command
from model import registry
from model.summary import summarize
from trainer import config as settings
from trainer import device as devices
from trainer.data import sources
from trainer.errors import UserError
from trainer.lifecycle.admission import admitted, check_batch
from trainer.lifecycle.submit import submit
from trainer.loop import heap
from trainer.loop.engine import StopTraining, Training
from trainer.runs.control import Control
from trainer.runs.runlog import RunLog

WORKERS = 2
PREFETCHED = 2 * WORKERS
"""Batches that the loader makes in advance: while the other side runs, too."""
PAUSE = 1.0
"""Seconds in which the loader fills its queue, so that it does not work beside the engine."""


class Images(Dataset[tuple[Tensor, int]]):
    """The training split, one transformed image at a time."""

    def __init__(self, images: Tensor, labels: Tensor, mean: list[float], std: list[float]) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomAffine(15, translate=(0.0625, 0.0625), scale=(0.9, 1.1)),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
                v2.RandomErasing(p=0.5, scale=(0.25, 0.25), ratio=(1, 1)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def batches(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


class Notebook:
    def __init__(self, data: object, model: str, batch_size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.net = registry.build(model).to(device)
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), lr=0.05, momentum=0.9, nesterov=True
        )
        train = data.train
        images = Images(
            torch.from_numpy(train.images),
            torch.from_numpy(train.labels),
            list(data.mean),
            list(data.std),
        )
        self.batches = batches(
            DataLoader(images, batch_size, shuffle=True, num_workers=WORKERS, drop_last=True)
        )
        self.batch_size = batch_size

    def run(self, steps: int) -> float:
        """Images per second over so many steps, after those whose batches were made before."""
        self.net.train()
        began = 0.0
        for step in range(-PREFETCHED, steps):
            if step == 0:
                began = time.perf_counter()
            images, labels = next(self.batches)
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.net(images), labels)
            loss.backward()
            self.optimizer.step()
            loss.item()
        return steps * self.batch_size / (time.perf_counter() - began)


class SomeSteps(Control):
    """Has the engine's own loop end after so many steps, before each of which it asks."""

    left = 0

    def stopping(self) -> bool:
        self.left -= 1
        return self.left < 0 or super().stopping()


def configuration(
    model: str, batch_size: int, *, compiled: bool, data: str = "cifar10"
) -> settings.RunConfig:
    """What the engine trains."""
    return settings.from_mapping(
        {
            "data": data,
            "model": {"name": model},
            "optimizer": {"lr": 0.05},
            "augment": {"flip": "random", "shift_scale_rotate": 1.0, "dropout": 0.5},
            "train": {"batch_size": batch_size, "epochs": 10_000, "compile": compiled},
        }
    )


class Engine:
    def __init__(
        self, data: object, model: str, batch_size: int, device: torch.device, *, compiled: bool
    ) -> None:
        config = configuration(model, batch_size, compiled=compiled)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.folder = tempfile.TemporaryDirectory()
        run = submit(config, Path(self.folder.name))
        self.control = SomeSteps(run)
        torch.manual_seed(0)
        net = registry.build(model)
        self.training = Training(
            config,
            data,
            net,
            summarize(net),
            device,
            devices.precision("auto", device),
            run,
            RunLog(run),
            self.control,
        )
        self.training._record_or_tell()

    def run(self, steps: int) -> float:
        """Images per second over so many steps, monitoring and logging included."""
        training, self.control.left = self.training, steps
        devices.synchronize(training.device)
        began = time.perf_counter()
        with suppress(StopTraining):
            while True:  # an epoch may end meanwhile; the next call goes on in the middle of one
                training._train_epoch()
                at = training.at
                at.epoch, at.batch, at.epoch_seconds = at.epoch + 1, 0, 0.0
                training.meter.begin_epoch()
        devices.synchronize(training.device)
        command.check_compiled(training.forward)
        return steps * training.config.train.batch_size / (time.perf_counter() - began)


SIDES = ("notebook", "engine")


def work(name: str, options: argparse.Namespace, steps: Connection) -> None:
    """One side, in its process: so many steps at each request, answered with images per second."""
    if name == "engine":
        heap.share_one_arena()  # as a worker begins, and a run
        heap.keep_freed_memory()
    try:
        device = devices.resolve(options.device)
        data = sources.load(options.data)
        config = configuration(options.model, options.batch_size, compiled=options.compile)
        check_batch(config, len(data.train.labels))
    except UserError as error:
        print(error, file=sys.stderr)
        return
    if name == "engine":
        side: Notebook | Engine = Engine(
            data, options.model, options.batch_size, device, compiled=options.compile
        )
    else:
        side = Notebook(data, options.model, options.batch_size, device)
    try:
        while count := steps.recv():
            steps.send(side.run(count))
    except command.NoFigureError as error:
        steps.send(error)


@contextmanager
def _started(name: str, options: argparse.Namespace) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=work, args=(name, options, theirs)
    )
    process.start()
    theirs.close()
    try:
        yield ours
        ours.send(0)
    finally:
        process.join(10)
        process.kill()


def _ask(name: str, side: Connection, steps: int) -> float:
    side.send(steps)
    try:
        answer = side.recv()
    except (EOFError, OSError):
        raise command.NoFigureError(f"the {name}'s process ended: see above") from None
    if isinstance(answer, Exception):
        raise answer
    return float(answer)


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--model", default="dws-normal")
    parser.add_argument("--batch-size", type=command.positive, default=128)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=command.positive, default=3)
    parser.add_argument("--steps", type=command.positive, default=40)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    devices.resolve(options.device)
    admitted(
        configuration(
            options.model, options.batch_size, compiled=options.compile, data=options.data
        )
    )
    sources.load_test(options.data)
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    out = sys.stderr if options.json else sys.stdout
    with ExitStack() as stack:
        stack.callback(lambda: report(rates, as_json=options.json))
        sides = {name: stack.enter_context(_started(name, options)) for name in SIDES}
        for name, side in sides.items():
            _ask(name, side, 3)
        for _ in range(options.rounds):
            for name, side in sides.items():
                time.sleep(PAUSE)
                rates[name].append(_ask(name, side, options.steps))
                number, rate = len(rates[name]), rates[name][-1]
                print(f"round {number}, {name}: {rate:.0f} images/s", file=out, flush=True)


def report(rates: dict[str, list[float]], *, as_json: bool) -> None:
    """The medians of the rounds that were done on both sides."""
    if not all(rates.values()):
        return
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["engine"] / medians["notebook"]
    if as_json:
        print(json.dumps({"images_per_second": medians, "all": rates, "ratio": ratio}))
        return
    for name, values in rates.items():
        print(f"{name:9} {medians[name]:8.0f} images/s   ({', '.join(f'{v:.0f}' for v in values)})")
    print(f"engine / notebook: {ratio:.2f}")


if __name__ == "__main__":
    command.run(main)
