"""The training loop: data on the device, events out, control in. Reads from top to bottom."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import user_file
from model.summary import Summary
from trainer import config as settings
from trainer import device as devices
from trainer import events, schedule
from trainer.config import RunConfig, Tta
from trainer.data.dataset import Dataset
from trainer.distributed.group import Group
from trainer.distributed.together import Together
from trainer.errors import ConfigError
from trainer.kernels.images import Draws
from trainer.loop import (
    compilation,
    convolutions,
    host_random,
    own_kernels,
    snapshot,
    step_recording,
)
from trainer.loop.augment import Augment, resized
from trainer.loop.compilation import Compiled, Forward
from trainer.loop.cuda_graphs import CaptureFailed, Recorder, RunAhead, StepGraphs, steps_undone
from trainer.loop.ema import Average
from trainer.loop.epoch_clock import EpochClock
from trainer.loop.evaluate import DeviceTestSplit, Evaluation, evaluate
from trainer.loop.hard_examples import HardExamples
from trainer.loop.layer_stats import LayerStats
from trainer.loop.meter import Meter
from trainer.loop.optim import Optimizers
from trainer.loop.reports import Reports, TrainingFailed, no_numbers, not_saved
from trainer.loop.run_files import Files
from trainer.runs.control import Control
from trainer.runs.position import Position
from trainer.runs.predictions import Predictions
from trainer.runs.rundir import DELETED, RunDir
from trainer.runs.runlog import RunLog


class StopTraining(Exception):  # noqa: N818  # no error: the user asked for it
    """Control asked to stop; raised between steps and between evaluation batches."""


def settings_layout(config: RunConfig) -> torch.memory_format:
    """The memory layout that a run's settings ask for."""
    return torch.channels_last if config.train.channels_last else torch.contiguous_format


@dataclass
class Training:
    """One run on one device."""

    config: RunConfig
    dataset: Dataset
    net: nn.Module
    summary: Summary
    device: torch.device
    precision: devices.Precision
    run: RunDir
    log: RunLog
    control: Control
    at: Position = field(default_factory=Position)
    group: Group | None = None
    """The ranks that train together; their collective calls are made by all at the same step."""
    only_layout: torch.memory_format | None = None
    """Of the net and its images, where it cannot be the one of the settings."""

    def __post_init__(self) -> None:
        """Put everything on the device; nothing is copied from the host after that."""
        train = self.config.train
        if self.device.type == "cuda":
            # shapes stay the same: trying all algorithms once pays
            torch.backends.cudnn.benchmark = True
        self.images = torch.from_numpy(self.dataset.train.images).to(self.device)
        self.labels = torch.from_numpy(self.dataset.train.labels).to(self.device)
        self.test = DeviceTestSplit(
            torch.from_numpy(self.dataset.test.images).to(self.device),
            torch.from_numpy(self.dataset.test.labels).to(self.device),
            len(self.dataset.classes),
        )
        self._kernels, self._problem = own_kernels.find(
            self.config, self.device, self.precision, grouped=self.group is not None
        )
        self.augment = Augment(
            self.config.augment,
            mean=self.dataset.mean,
            std=self.dataset.std,
            device=self.device,
            dtype=devices.DTYPES[self.precision],
            kernels=self._kernels,
        )
        self.layout = self.only_layout or settings_layout(self.config)
        kernels = self._kernels and not train.compile
        convolutions.choose_per_layer(self.net, self.device, self.precision, kernels=kernels)
        if kernels and self.group is None:
            own_kernels.choose_per_layer(self.net, self.device)
        if train.compile:
            compilation.choose_per_layer(self.net, self.device)
        self.net = self.net.to(self.device).to(memory_format=self.layout)
        self.optimizers = Optimizers(
            self.net, self.config.optimizer, self.device, kernels=self._kernels
        )
        self.ema = Average(self.net, train.ema) if train.ema else None
        self.uncompiled: Forward = self.net
        self.together: Together | None = None
        if self.group is not None:
            self.together = Together(self.group, self.control, self.device)
            self.control = self.together.control
            self.uncompiled = self.together.wrap(self.net, self.summary)
        self.forward: Forward = self.uncompiled
        if train.compile:
            self.forward = Compiled(
                *(self.uncompiled, self.device, self._not_compiled, self._tell_of_compiling),
                sizes=len(schedule.sides(train)),
                parts=1 + (self.together.norms if self.together else 0),
            )
        first = self.group is None or self.group.first
        self.layer_stats = LayerStats(self.net, train.layer_stats if first else 0)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == "fp16" and self.device.type == "cuda"
        )
        self.meter = Meter(self.device)
        self.ahead = RunAhead(self.device)
        self.graphs: StepGraphs | None = None
        self._next_draws: tuple[int, Draws] | None = None
        self.examples = HardExamples(len(self.labels), train, self.device)
        self.steps_per_epoch = len(self.labels) // train.batch_size
        self.total_steps = self.examples.total()
        self._factor = partial(
            schedule.factor,
            self.config.schedule,
            total=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
        )
        """Learning rates of the step after so many, as a share of their peaks."""
        self.clock = EpochClock()
        self.files = Files(self.run, self.log)
        self.reports = Reports(
            *(self.log, self.meter, self.examples),
            batch_size=train.batch_size,
            peak=self.optimizers.peak,
            factor=self._factor,
            device=self.device,
            together=self.together,
        )

    @property
    def epochs_done(self) -> int:
        """Epochs that were trained to their end, over all attempts; the last may be untested."""
        at = self.at
        return at.epoch - 1 + (at.batch >= self.examples.steps(at.epoch))

    def autocast(self) -> torch.autocast:
        """Context in which the net runs in the run's precision."""
        return torch.autocast(
            self.device.type,
            dtype=devices.DTYPES[self.precision],
            enabled=self.precision != "fp32",
        )

    def fit(self) -> None:
        """Train all epochs from the present position on, then evaluate with augmentation.

        Raises:
            StopTraining: the user asked for it.
            TrainingFailed: the loss, or in the end the net's output, is not a number; or what was
                trained could not be saved in the end.
        """
        train, every = self.config.train, self.config.evaluate.every
        first = self.group is None or self.group.first
        if self._problem:
            self._notice("warning", "no-kernels", self._problem)
        recorded = False
        while self.at.epoch <= train.epochs:
            if self._no_better() and not self.at.batch:
                break  # as was told before this run was resumed
            epoch = self.at.epoch
            if not recorded and self.at.batch < self.examples.steps(epoch):
                # not for an epoch whose evaluation alone is left
                self._record_or_tell()
                recorded = True
            self._train_epoch()
            last = epoch == train.epochs
            if epoch % every == 0 or last:
                self._evaluate_epoch(epoch)
            self.at.epoch, self.at.batch, self.at.epoch_seconds = epoch + 1, 0, 0.0
            self.meter.begin_epoch()
            if self.at.best_epoch == epoch and self.ema is None:
                self.save_checkpoint("last", "best")
            else:
                self.save_checkpoint("last")
            if first:
                self.files.keep_fold()
            if self._no_better() and not last:
                self._notice(
                    "info",
                    "early-stop",
                    f"no better test accuracy in the last "
                    f"{train.early_stop} evaluations: stopped after epoch {epoch}",
                )
                break
        if self.at.evaluated and self.at.final_accuracy < 0:
            raise TrainingFailed(no_numbers(self.at.evaluated))
        self._evaluate_tta()
        self._need_the_end()

    def _need_the_end(self) -> None:
        """What was trained counts when it is saved: on all ranks, of which the first saves."""
        self.files.close()
        reason = self.files.last_unsaved
        if self.group is not None:
            reason = self.group.tell(reason.encode()).decode()
        if reason:
            if self.log.deleted:
                raise TrainingFailed(DELETED)
            there, again = self.run.path.is_dir(), self.run.has_checkpoint("last")
            raise TrainingFailed(not_saved(reason, there=there, again=again))

    def _no_better(self) -> bool:
        """Whether there was no better evaluation for as long as ``train.early_stop`` waits."""
        patience = self.config.train.early_stop
        return bool(patience) and self.at.evals_without_best >= patience

    def _record_or_tell(self) -> None:
        """Record the steps as CUDA graphs, or tell whoever expects it why not."""
        wanted = self.config.train.cuda_graphs
        if self.device.type != "cuda" or wanted == "off":
            return
        grouped, scaling = self.group is not None, self.scaler.is_enabled()
        why_not = step_recording.why_not(self.config, grouped=grouped, scaling=scaling)
        if not why_not:
            self._record_steps()
        elif wanted == "on":
            self._notice("warning", "no-cuda-graphs", f"training without CUDA graphs: {why_not}")
        elif not grouped and not scaling:
            self._notice("info", "own-net", f"not recorded as CUDA graphs: {why_not}")

    def _record_steps(self) -> None:
        """Record the step for each size that images still have; if it fails, train without."""
        train = self.config.train
        began = time.monotonic()
        now = schedule.side(train, self.at.step, self.total_steps)
        state = [self.meter.device_sums]
        if self.examples.losses is not None:
            state.append(self.examples.losses)
        self.net.train()
        self.files.close()  # nothing else may wait for the GPU meanwhile, as a checkpoint does
        try:
            recorded = step_recording.record(
                self._compute,
                torch.arange(train.batch_size, device=self.device),
                self._draws(self.at.epoch),
                partial(Recorder, self.device),
                sides=[side for side in schedule.sides(train) if side >= now],
                measured=train.layer_stats > 0,
                undone=steps_undone(self.net, self.optimizers.all, state),
                forward=self.forward,
            )
        except CaptureFailed as failure:
            # of what it leaves behind torch does not clean up everything
            message = f"the step cannot be recorded: set train.cuda_graphs=off ({failure})"
            raise TrainingFailed(message) from None
        if isinstance(recorded, str):
            self.layer_stats.forget()
            torch.cuda.empty_cache()
            self._notice("warning", "no-cuda-graphs", f"training without CUDA graphs: {recorded}")
            return
        self.graphs = recorded
        seconds = time.monotonic() - began
        self._notice(
            "info", "cuda-graphs", f"steps recorded as CUDA graphs in {seconds:.1f} seconds"
        )

    def _draws(self, epoch: int) -> Draws:
        """The augmentation's random numbers of an epoch."""
        if self._next_draws is None or self._next_draws[0] != epoch:
            draws = self.augment.draw(len(self.labels), epoch=epoch, seed=self.config.train.seed)
            self._next_draws = epoch, draws
        return self._next_draws[1]

    def _train_epoch(self) -> None:
        epoch, size = self.at.epoch, self.config.train.batch_size
        self.log.emit(events.EpochStarted(epoch=epoch, step=self.at.step))
        self.clock.begin(self.at.epoch_seconds)
        self.reports.begin_epoch(self.at)
        order = self.examples.order(epoch, resumed=self.at.batch > 0)
        steps = self.examples.steps(epoch)
        draws = self._draws(epoch)
        if self.graphs is not None:
            self.graphs.begin_epoch(draws)
        if self.together is not None:
            self.together.begin_epoch(self.meter)
        self.net.train()
        self.ahead.begin()
        for batch in range(self.at.batch, steps):
            self._obey_control()
            self._step(order[batch * size : (batch + 1) * size], draws)
            self.at.batch, self.at.step = batch + 1, self.at.step + 1
            self.ahead.queued()
            self.reports.training(self.at)
            self._report_layers()
        if epoch < self.config.train.epochs:
            # while a GPU still has steps to do
            self._draws(epoch + 1)
            self.examples.shuffle(epoch + 1)
        if self.together is not None:
            loss, accuracy = self.together.totals(self.meter)
        else:
            loss, accuracy = self.meter.totals()
        self._report_layers()
        self._keep_epoch_seconds()
        self.clock.end()
        self.reports.end_epoch(
            *(self.at, loss, accuracy), lr=self.optimizers.lr, seconds=self.at.epoch_seconds
        )

    def _not_compiled(self, problem: str) -> None:
        self._notice("warning", "not-compiled", problem)

    def _tell_of_compiling(self, size: torch.Size) -> None:
        pixels = f"{size[-2]}x{size[-1]}"
        message = f"the net is compiled for images of {pixels}: this step takes up to a minute"
        self._notice("info", events.COMPILE, message)

    def _step(self, index: Tensor, draws: Draws) -> None:
        """One optimizer step; nothing in it waits for the device."""
        train = self.config.train
        if self.together is not None:
            index = self.together.share(index)
            self.together.seed_dropout(train.seed, self.at.step)
        self.optimizers.set_factor(self._factor(self.at.step))
        side = schedule.side(train, self.at.step, self.total_steps)
        measured = self.layer_stats.due(self.at.batch, self.examples.steps(self.at.epoch))
        if self.graphs is not None:
            self.graphs(index, side, measured=measured)
        else:
            self._compute(index, draws, side, measured)
        if measured:
            epoch, step = self.at.epoch, self.at.step + 1
            self.layer_stats.begin_read(epoch=epoch, step=step, side=side)
        self.meter.images += len(index)
        if self.ema is not None:
            self.ema.follow(self.net)

    def _compute(self, index: Tensor, draws: Draws, side: int, measured: bool) -> None:
        """What a step computes, all of it on the device: what can be recorded."""
        train = self.config.train
        images = self.augment(self.images.index_select(0, index), index, draws)
        images = resized(images, side)
        labels = self.labels.index_select(0, index)
        logits, log_p, cross_entropy = self._find_gradients(images, labels, measured)
        used = self.optimizers.used()
        for optimizer in used:
            self.scaler.unscale_(optimizer)
        if measured:
            self.layer_stats.before_step()
        self.optimizers.add_l1()
        if train.grad_clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), train.grad_clip)
        for optimizer in used:
            self.scaler.step(optimizer)
        self.scaler.update()
        if measured:
            self.layer_stats.after_step(side)
        with torch.no_grad():
            # the cross-entropy without smoothing, so that it compares with the test loss
            self.examples.note(index, log_p, labels)
            correct = (logits.argmax(1) == labels).sum()
            self.meter.add(cross_entropy * len(labels), correct)

    def _find_gradients(
        self, images: Tensor, labels: Tensor, measured: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both passes, and if what is compiled fails, both again: of a step nothing else is done.

        The batch norms' running statistics may then count the batch twice, which they soon forget.
        Several processes do not repeat anything: a rank that did would wait for the others.
        """
        try:
            return self._forward_and_backward(images, labels, measured)
        except Exception as error:
            compiled = self.forward if isinstance(self.forward, Compiled) else None
            if compiled is None or measured or self.group is not None or not compiled.fails(error):
                raise
        return self._forward_and_backward(images, labels, measured)

    def _forward_and_backward(
        self, images: Tensor, labels: Tensor, measured: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of a batch; its logits, log-probabilities [B, classes] and cross-entropy."""
        train = self.config.train
        if measured:
            self.layer_stats.watch()
        # compiled code cannot be looked into
        forward = self.uncompiled if measured else self.forward
        with self.autocast():
            logits = forward(images.contiguous(memory_format=self.layout))
        log_p = F.log_softmax(logits.float(), 1)
        cross_entropy = F.nll_loss(log_p, labels)
        smoothing = train.label_smoothing
        loss = cross_entropy
        if smoothing:
            loss = (1 - smoothing) * cross_entropy - smoothing * log_p.mean()
        if self.together is not None:
            loss = loss * self.together.weight(len(labels), train.batch_size)
        self.optimizers.zero_grad()
        self.scaler.scale(loss).backward()
        return logits, log_p, cross_entropy

    def _obey_control(self) -> None:
        """Save, wait and stop, as asked.

        A checkpoint within an evaluation holds the position before it, as after a stop there:
        whoever resumes evaluates again.

        Raises:
            StopTraining: the user asked for it.
            TrainingFailed: the run's folder was deleted.
        """
        self._save_if_asked()
        if self.control.paused():
            self._wait_while_paused()
        if self.control.deleted:
            raise TrainingFailed(DELETED)
        if self.control.stopping():
            devices.synchronize(self.device)  # the last steps: their time, and what was measured
            self._keep_epoch_seconds()
            self._report_layers()
            raise StopTraining

    def _save_if_asked(self) -> None:
        if self.control.take_checkpoint_request():
            self._keep_epoch_seconds()
            self.save_checkpoint("last")

    def _keep_epoch_seconds(self) -> None:
        if (seconds := self.clock.seconds) is not None:
            self.at.epoch_seconds = seconds

    def _wait_while_paused(self) -> None:
        devices.synchronize(self.device)
        self.log.emit(events.Paused(step=self.at.step))
        self.clock.pause()
        while self.control.paused():
            self._save_if_asked()
            self.control.wait(0.1)
        seconds = self.clock.resume()
        self.ahead.begin()
        self.reports.paused(seconds)
        self.log.emit(events.Resumed(step=self.at.step, seconds=seconds))

    def _report_layers(self) -> None:
        while (found := self.layer_stats.take()) is not None:
            self.log.emit(found)

    def _evaluate_epoch(self, epoch: int) -> None:
        if self.at.evaluated != epoch:  # else an earlier attempt has, whose result stands
            result = self._evaluate(self.net, epoch, "plain")
            accuracy = -1.0 if result is None else result.correct / max(1, result.images)
            self.at.final_accuracy, self.at.evaluated = accuracy, epoch
            self._count_evaluation(epoch, accuracy)
        if self.ema is not None:
            self._evaluate(self.ema, epoch, "ema")

    def _count_evaluation(self, epoch: int, accuracy: float) -> None:
        if self.at.count(epoch, accuracy) and self.ema is not None:
            # not only at the epoch's end: the averaged net's evaluation may be stopped
            self.save_checkpoint("last", "best")

    def _evaluate_tta(self) -> None:
        if self.config.evaluate.tta != "none":
            net = self.net if self.ema is None else self.ema
            self._evaluate(net, self.at.epoch - 1, "tta", self.config.evaluate.tta)

    def _evaluate(
        self, net: nn.Module, epoch: int, variant: events.Variant, tta: Tta = "none"
    ) -> Evaluation | None:
        """Evaluate and record it; ``None``, and a notice, where the net gives no numbers."""
        paused = self.clock.paused_total
        result = evaluate(
            net,
            self.test,
            self.augment,
            batch_size=self.config.evaluate.batch_size,
            autocast=self.autocast,
            tta=tta,
            on_batch=partial(self._on_test_batch, epoch),
            group=self.group,
        )
        paused = self.clock.paused_total - paused
        result = replace(result, seconds=result.seconds - paused)
        if not result.numbers:
            # statistics of a batch norm may lag behind: training may well recover
            self._notice("warning", events.NOT_A_NUMBER, no_numbers(epoch, variant))
            return None
        self.log.emit(result.event(epoch=epoch, step=self.at.step, variant=variant))
        self._save_predictions(result, epoch, variant)
        return result

    def _on_test_batch(self, epoch: int, done: int, total: int) -> None:
        if self.together is not None:
            self.together.exchange(self.meter)
        self._obey_control()
        self.reports.testing(self.at, epoch, done, total)

    def _save_predictions(self, result: Evaluation, epoch: int, variant: events.Variant) -> None:
        if self.group is not None and not self.group.first:
            return
        found = Predictions(
            probabilities=result.probabilities,
            labels=self.dataset.test.labels,
            split="test",
            fingerprint=self.dataset.fingerprint,
            epoch=epoch,
            predicted=result.predicted,
            figures=result.figures,
        )
        self.files.put_predictions(found, variant, step=self.at.step)

    def save_checkpoint(self, *roles: events.Role) -> None:
        """Save ``last`` or, in this order, ``last`` and ``best`` of the same moment. Rank 0 writes.

        ``last`` first: a resume must not begin before the evaluation that ``best`` is of. A failure
        is a notice, training goes on. A slow disk is not waited for, with a GPU not even an
        ordinary one; ``settle`` does.
        """
        state = self.state_dict()
        if self.group is not None and not self.group.first:
            return
        pack, aside = snapshot.packing(state, self.device), self.device.type in snapshot.ASIDE
        self.files.put_checkpoint(pack, roles, self.at, wait=not aside)

    def settle(self) -> None:
        """Wait until all files are on disk, or are known not to be."""
        self.files.close()

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs; order and augmentation follow from seed and position."""
        state: dict[str, Any] = {
            "config": settings.to_toml(self.config),
            "fingerprint": self.dataset.fingerprint,
            "train_sample": self.dataset.train_sample,
            "precision": self.precision,
            "position": asdict(self.at),
            "net": self.net.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "scaler": self.scaler.state_dict(),
            "meter": self._meter_state(),
            "examples": self.examples.state_dict(),
            "random": torch.get_rng_state(),
            "random_host": host_random.state(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def _meter_state(self) -> dict[str, object]:
        if self.together is not None:
            return self.together.meter_state(self.meter)
        return self.meter.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was saved.

        Raises:
            ConfigError: the net is another one.
        """
        self.at = Position(**state["position"])
        try:
            self.net.load_state_dict(state["net"])
            self.optimizers.load_state_dict(state["optimizers"])
        except (RuntimeError, KeyError, ValueError) as error:
            if any(word in str(error) for word in ("memory", "CUDA")):
                raise
            # torch tells each wrong name on a line of its own
            name, todo = self.config.model.name, "train a new run"
            if user_file.is_file(name):
                todo = f"put {name.rpartition(':')[0]} back as it was, or {todo}"
            raise ConfigError(f"the net is not the one that was trained: {todo}") from None
        if state["scaler"]:  # of a run that began in bf16, on a newer GPU, there is none
            self.scaler.load_state_dict(state["scaler"])
        if self.together is not None:
            self.together.load_meter(self.meter, state["meter"])
        else:
            self.meter.load_state_dict(state["meter"])
        self.examples.load_state_dict(state.get("examples", {}))
        torch.set_rng_state(state["random"])
        host_random.restore(state.get("random_host", {}))
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.optimizers.set_factor(self._factor(max(0, self.at.step - 1)))
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)

    def _notice(self, level: events.Level, code: str, message: str) -> None:
        self.log.emit(events.Notice(level=level, code=code, message=message))
