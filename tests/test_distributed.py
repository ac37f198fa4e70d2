"""Several processes train one run: as one process would, and what happens when one of them dies."""

from __future__ import annotations

import copy
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn

from model import registry
from model.fast import ShiftNorm
from tests.distributed_helpers import GROUP_NORM, NO_DROPOUT, Task, a_run, train_together
from tests.training_helpers import binary_folder
from tests.tui_helpers import make_run
from trainer import config as settings
from trainer import events
from trainer.distributed import batch_norm, launch, rank, watch
from trainer.distributed.batch_norm import synchronise
from trainer.distributed.group import Group, Member, _place
from trainer.distributed.lead import Lead
from trainer.distributed.together import _SYNC_BUFFERS
from trainer.distributed.world import World, from_environment, share
from trainer.errors import ConfigError, DeviceError
from trainer.exit_codes import FAILED
from trainer.lifecycle import session
from trainer.lifecycle.prepare import check_alike
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import read_config, resubmit
from trainer.loop.compilation import Compiled
from trainer.presets import catalog
from trainer.processes import lives
from trainer.protocol import Job
from trainer.runs import checkpoint
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import DELETED, RunDir, scan
from trainer.runs.runlog import RunLog, Tail
from trainer.runs.runstate import RunState

LOSS = 1e-5
WEIGHTS = 1e-4
"""Largest differences to one process: sums in another order, over twelve steps."""


def folded(run: RunDir) -> RunState:
    return Follower(run).catch_up()


class Pair(NamedTuple):
    one: RunDir
    two: RunDir


CASES = {
    "batch norm": (NO_DROPOUT, ()),
    "group norm": (GROUP_NORM, ()),
    "everything": (
        NO_DROPOUT,
        (
            "train.ema=0.9",
            "train.grad_clip=0.5",
            "train.label_smoothing=0.1",
            "optimizer.l1=1e-4",
            "augment.shift_scale_rotate=0.5",
            "augment.shift=2",
            "evaluate.tta='flip+shift'",
            "evaluate.batch_size=7",
        ),
    ),
    "muon": (GROUP_NORM, ("optimizer.name=muon",)),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return binary_folder(tmp_path_factory.mktemp("data"), test=31)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Pair]:
    """The same settings trained by one process and by two."""
    folder = tmp_path_factory.mktemp("pairs")
    found = {}
    for at, (case, (net, overrides)) in enumerate(CASES.items()):
        one, two = (a_run(folder / f"{at}-{n}", data, net, *overrides) for n in (1, 2))
        assert train_run(one, Control(one)).state == "completed"
        found[case] = Pair(one, two)
    assert train_together(*[Task(pair.two.path) for pair in found.values()]) == [0, 0]
    return found


@pytest.mark.parametrize("case", list(CASES))
def test_metrics_and_weights_are_those_of_one_process(pairs: dict[str, Pair], case: str) -> None:
    one, two = (folded(run) for run in pairs[case])
    loose = 100 if case == "muon" else 1  # orthogonalised in bf16 where the CPU multiplies in it
    assert [(r.epoch, r.step) for r in two.epochs] == [(1, 6), (2, 12)]
    for alone, together in zip(one.epochs, two.epochs, strict=True):
        assert together.train_loss == pytest.approx(alone.train_loss, rel=LOSS * loose)
        assert together.test_loss == pytest.approx(alone.test_loss, rel=LOSS * loose)
        if case != "muon":
            assert together.train_accuracy == alone.train_accuracy
            assert together.test_accuracy == alone.test_accuracy
        assert together.lr == alone.lr
    states = [checkpoint.load(run.checkpoint("last")) for run in pairs[case]]
    for part in ("net", *(["ema"] if case == "everything" else [])):
        for name, tensor in states[0][part].items():
            torch.testing.assert_close(
                states[1][part][name], tensor, rtol=0, atol=WEIGHTS * loose, msg=f"{part} {name}"
            )
    assert two.missing == 0


def test_the_sharded_evaluation_counts_every_image_once(pairs: dict[str, Pair]) -> None:
    one, two = (folded(run) for run in pairs["everything"])
    assert [e.variant for e in two.evals] == ["plain", "ema", "plain", "ema", "tta"]
    for alone, together in zip(one.evals, two.evals, strict=True):
        assert together.images == 31
        assert together.confusion == alone.confusion
    found = [
        np.load(pair.predictions(2, "plain"), allow_pickle=False) for pair in pairs["everything"]
    ]
    for name in ("probabilities", "loss", "log_rest", "log_entropy"):
        columns = [one[name].astype(float) for one in found]
        assert np.abs(columns[0] - columns[1]).max() < 2e-3, name  # float16


def test_the_log_names_the_ranks(pairs: dict[str, Pair]) -> None:
    started = folded(pairs["batch norm"].two).started
    assert started is not None
    assert len(started.ranks) == 2
    assert len({rank.pid for rank in started.ranks}) == 2
    assert {rank.device for rank in started.ranks} == {"cpu"}
    assert started.pid == started.ranks[0].pid
    figures = folded(pairs["batch norm"].two).ranks
    assert figures is not None
    assert len(figures.images_per_second) == len(figures.memory) == 2
    assert min(figures.images_per_second) > 0
    assert min(figures.memory) > 1 << 20


def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, data: Path, pairs: dict[str, Pair]
) -> None:
    whole = pairs["batch norm"].one
    shrinks, grows = (a_run(tmp_path / name, data) for name in ("shrinks", "grows"))
    asked = Control(grows)

    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.EpochEnded):
            asked.request("stop")

    assert train_run(grows, asked, listener=listen).state == "stopped"
    resubmit(grows, processes=2)
    assert read_config(grows).train.processes == 2
    codes = train_together(
        Task(shrinks.path, command="stop", at_step=2), Task(grows.path, resume=True)
    )
    assert codes == [0, 0]
    state = folded(shrinks)
    assert state.ended is not None
    assert state.ended.state == "stopped"
    saved = state.checkpoints["last"]
    assert 2 <= saved.step < 12
    resubmit(shrinks, processes=1)
    assert train_run(shrinks, Control(shrinks), resume=True).state == "completed"
    expected = [(r.train_loss, r.test_loss) for r in folded(whole).epochs]
    for run in (shrinks, grows):
        found = [(r.train_loss, r.test_loss) for r in folded(run).epochs]
        np.testing.assert_allclose(found, expected, rtol=LOSS)
        assert folded(run).attempt == 2


def test_a_killed_rank_ends_the_run_and_the_log_says_which(tmp_path: Path, data: Path) -> None:
    run = a_run(tmp_path, data)
    codes = train_together(Task(run.path, dies=1, at_step=8))
    assert codes == [1, -signal.SIGKILL]
    ended = folded(run).ended
    assert ended is not None
    assert ended.state == "failed"
    assert ended.error is not None
    assert "rank 1 of 2 (process" in ended.error
    assert not run.is_locked()
    assert run.checkpoint("last").is_file()


def test_all_ranks_end_when_the_folder_is_deleted(tmp_path: Path, data: Path) -> None:
    run = a_run(tmp_path, data, NO_DROPOUT, "train.epochs=100000")
    assert train_together(Task(run.path, deleted=True, at_step=8)) == [1, 1]
    assert not run.path.exists()


# with torchrun itself


def ended_rank(run: RunDir, rank: int, attempt: int) -> int | None:
    """The process of a rank once that attempt has a checkpoint to go on from."""
    log = [e for e in Tail(run.log).read() if e.attempt == attempt]
    started = next((e.event for e in log if isinstance(e.event, events.RunStarted)), None)
    saved = any(isinstance(e.event, events.CheckpointSaved) for e in log)
    return started.ranks[rank].pid if started is not None and saved else None


def test_torchrun_starts_anew_after_a_kill_and_the_run_goes_on(tmp_path: Path, data: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(NO_DROPOUT)
    command = [
        *(sys.executable, "-m", "trainer", "train", "quick", "--data", str(data)),
        *("--batch-size", "15", "--device", "cpu", "--epochs", "100000", "--precision", "fp32"),
        *("--processes", "2", "--max-restarts", "1", "--set", f"model.name='{net}:Tiny'"),
    ]
    environment = {**os.environ, "CIFAR_TUI_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for attempt in (1, 2):
                pid = None
                until = time.monotonic() + 120
                while pid is None:
                    assert time.monotonic() < until, "timed out"
                    assert process.poll() is None
                    time.sleep(0.1)
                    for run in scan(tmp_path / "runs"):
                        pid = ended_rank(run, 1, attempt)
                if attempt == 1:
                    os.kill(pid, signal.SIGKILL)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    (run,) = scan(tmp_path / "runs")
    assert process.returncode == 130, err
    assert "stopped" in out
    state = folded(run)
    codes = [notice.code for _, notice in state.notices]
    assert codes.index("rank-lost") < codes.index("restarted")
    lost = next(n.message for _, n in state.notices if n.code == "rank-lost")
    assert "rank 1 of 2 (process" in lost
    assert state.attempt == 2
    assert state.started is not None
    assert state.started.resumed_step
    assert [row.epoch for row in state.epochs] == list(range(1, len(state.epochs) + 1))
    assert state.ended is not None
    assert state.ended.state == "stopped"
    assert not run.is_locked()


# no other processes


@pytest.fixture
def alone() -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    group = dist.group.WORLD
    assert group is not None
    yield group
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["batch norm", "shift norm", "without parameters"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_norm_over_ranks_is_as_precise_as_torchs(
    alone: dist.ProcessGroup, dtype: torch.dtype, kind: str
) -> None:
    make: dict[str, Callable[[], nn.Module]] = {
        "batch norm": lambda: nn.BatchNorm2d(6),
        "shift norm": lambda: ShiftNorm(6),
        "without parameters": lambda: nn.BatchNorm2d(6, affine=False, momentum=None),
    }
    torch.manual_seed(0)
    norms = [make[kind]() for _ in range(3)]
    norms[2].double()
    assert synchronise(norms[1], alone) == 1
    images = torch.randn(16, 6, 8, 8).mul_(2).add_(1).to(memory_format=torch.channels_last)
    grad = torch.randn(16, 6, 8, 8) + 0.3
    found: list[dict[str, torch.Tensor]] = []
    for norm, kept in zip(norms, (dtype, dtype, torch.float64), strict=True):
        given = images.to(dtype).to(kept).clone().requires_grad_()
        out = norm(given)
        out.backward(grad.to(dtype).to(kept))
        assert given.grad is not None
        values = {"out": out, "input": given.grad, **dict(norm.named_buffers())}
        values.update({name: p.grad for name, p in norm.named_parameters() if p.grad is not None})
        found.append({name: value.detach().double() for name, value in values.items()})
    torchs, ours, exact = found
    for name, value in exact.items():
        allowed = 2.5 * (torchs[name] - value).abs().max() + 1e-6
        assert (ours[name] - value).abs().max() <= allowed, name
    norms[1].eval()
    with torch.no_grad():
        torch.testing.assert_close(norms[1](images), norms[0].eval()(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["dws-normal", "fast"])
def test_a_net_that_its_norms_divide_is_compiled_part_by_part(
    alone: dist.ProcessGroup, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    compiled = 0

    def taken_as_it_is(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=taken_as_it_is))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/g++")
    net = registry.build(name)
    norms = synchronise(net, alone)
    wrapped = nn.parallel.DistributedDataParallel(net, **{_SYNC_BUFFERS: False})  # type: ignore[arg-type]
    forward = Compiled(wrapped, torch.device("cpu"), pytest.fail, sizes=2, parts=1 + norms)
    counts = []
    for side in (24, 32, 24, 32):
        forward(torch.randn(2, 3, side, side)).sum().backward()
        counts.append(compiled)
    assert norms < counts[0] < counts[1] == counts[2] == counts[3]


class Ranks:
    """Ranks that are threads: what a group tells of one of them, and sums of all."""

    def __init__(self, size: int) -> None:
        self._size, self._own = size, threading.local()
        self._given: list[torch.Tensor] = []
        self._told = threading.Barrier(size, timeout=60)

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        rank: int = self._own.rank
        return rank

    def all_reduce(self, values: torch.Tensor, group: Ranks) -> None:
        assert group is self
        self._given.append(values)
        self._told.wait()
        total = sum(given.clone() for given in self._given)
        self._told.wait()
        values.copy_(total)
        if self._told.wait() == 0:
            self._given.clear()
        self._told.wait()

    def each(self, work: Callable[[int], Any]) -> list[Any]:
        """What all of them come to."""

        def as_rank(rank: int) -> Any:
            self._own.rank = rank
            return work(rank)

        with ThreadPoolExecutor(self._size) as pool:
            return list(pool.map(as_rank, range(self._size)))


def gpus_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums that torch's kernels for batch norm over several GPUs compute, on the host."""

    def shaped(vector: torch.Tensor) -> torch.Tensor:
        return vector.view(1, -1, 1, 1)

    def stats(input: torch.Tensor, eps: float) -> tuple[torch.Tensor, ...]:
        variance, mean = torch.var_mean(input, (0, 2, 3), correction=0)
        return mean, (variance + eps).rsqrt()

    def gather(
        input: torch.Tensor,
        means: torch.Tensor,
        invstds: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        momentum: float,
        eps: float,
        counts: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        assert counts.dtype == (input if running_mean is None else running_mean).dtype
        weights = counts[:, None] / counts.sum()
        mean = (weights * means).sum(0)
        second = weights * (invstds**-2 - eps + (means - mean) ** 2)
        variance = second.sum(0)
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
        return mean, (variance + eps).rsqrt()

    def elemt(
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        invstd: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        out = (input - shaped(mean)) * shaped(invstd)
        out = out if weight is None else out * shaped(weight)
        return out if bias is None else out + shaped(bias)

    def reduce(
        grad: torch.Tensor,
        input: torch.Tensor,
        mean: torch.Tensor,
        invstd: torch.Tensor,
        weight: torch.Tensor | None,
        *wanted: bool,
    ) -> tuple[torch.Tensor | None, ...]:
        assert wanted == (True, False, False)
        products = (grad * (input - shaped(mean))).sum((0, 2, 3))
        return grad.sum((0, 2, 3)), products, None, None

    def backward(
        grad: torch.Tensor,
        input: torch.Tensor,
        mean: torch.Tensor,
        invstd: torch.Tensor,
        weight: torch.Tensor | None,
        sums: torch.Tensor,
        products: torch.Tensor,
        counts: torch.Tensor,
    ) -> torch.Tensor:
        assert counts.dtype == torch.int32
        total = counts.sum()
        slope = shaped(products / total * invstd**2)
        of_input = grad - shaped(sums / total) - (input - shaped(mean)) * slope
        return of_input * shaped(invstd if weight is None else invstd * weight)

    kernels = {
        "stats": stats,
        "gather_stats_with_counts": gather,
        "elemt": elemt,
        "backward_reduce": reduce,
        "backward_elemt": backward,
    }
    for name, kernel in kernels.items():
        monkeypatch.setattr(torch, f"batch_norm_{name}", kernel)


@pytest.mark.parametrize("kind", ["weight and bias", "bias", "neither", "no statistics"])
def test_batch_norm_over_gpus_is_that_of_all_their_images(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    ranks = Ranks(3)
    gpus_kernels(monkeypatch)
    monkeypatch.setattr(batch_norm.dist, "all_reduce", ranks.all_reduce)
    torch.manual_seed(0)
    images, grad = torch.randn(2, 11, 5, 4, 3, dtype=torch.float64)
    weight, bias, mean, var = torch.rand(4, 5, dtype=torch.float64)
    given: dict[str, torch.Tensor | None] = {"weight": weight, "bias": bias}
    given |= {"running_mean": mean, "running_var": var}
    missing = {"bias": ["weight"], "neither": ["weight", "bias"]}
    for name in missing.get(kind, ["running_mean", "running_var"] if "no " in kind else []):
        given[name] = None

    def train(rank: int, part: slice) -> dict[str, torch.Tensor]:
        mine = {name: None if t is None else t.clone() for name, t in given.items()}
        x = images[part].clone().requires_grad_()
        wanted = {"input": x, **{n: t for n, t in mine.items() if t is not None and n[0] != "r"}}
        for tensor in wanted.values():
            tensor.requires_grad_()
        where = *(mine[n] for n in ("weight", "bias", "running_mean", "running_var")), 0.3, 1e-5
        if rank < 0:
            out = nn.functional.batch_norm(x, where[2], where[3], *where[:2], True, 0.3, 1e-5)
        else:
            out = batch_norm._BatchNormOnGpu.apply(x, *where, ranks)
        out.backward(grad[part])
        found = {name: tensor.grad for name, tensor in wanted.items()}
        found |= {name: mine[name] for name in ("running_mean", "running_var")}
        return {"out": out.detach(), **{n: t for n, t in found.items() if t is not None}}

    expected = train(-1, slice(None))
    found = ranks.each(lambda rank: train(rank, share(11, rank, 3)))
    assert all(part.keys() == expected.keys() for part in found)
    for name, value in expected.items():
        parts = [part[name] for part in found]
        if name in ("out", "input"):
            torch.testing.assert_close(torch.cat(parts), value)
        elif "running" in name:
            for part in parts:
                torch.testing.assert_close(part, value)
        else:  # of parameters, which are summed over the ranks afterwards
            torch.testing.assert_close(sum(parts), value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["batch norm", "shift norm"])
def test_cuda_batch_norm_over_gpus_is_torchs_and_waits_for_nothing(kind: str) -> None:
    device = torch.device("cuda:0")
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        group = dist.group.WORLD
        assert group is not None
        torch.manual_seed(0)
        usual = (ShiftNorm(64) if kind == "shift norm" else nn.BatchNorm2d(64)).to(device)
        ours = copy.deepcopy(usual)
        synchronise(ours, group)
        images = torch.randn(32, 64, 9, 9, device=device).mul_(2).add_(1).bfloat16()
        images = images.to(memory_format=torch.channels_last)
        grad = torch.randn_like(images)
        found = []
        for norm in (usual, ours):
            for again in range(2):  # the connection is made at first use, for which one waits
                x = images.clone().requires_grad_()
                norm.zero_grad()
                torch.cuda.synchronize()
                torch.cuda.set_sync_debug_mode("error" if again and norm is ours else "default")
                try:
                    out = norm(x)
                    out.backward(grad)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            parameters = [p.grad for p in norm.parameters()]
            found.append([out, x.grad, *parameters, *norm.buffers()])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-2, atol=1e-2)
    finally:
        dist.destroy_process_group()


def test_every_part_belongs_to_one_rank() -> None:
    for count in (0, 1, 5, 15, 16, 10_000):
        for size in (1, 2, 3, 7, 16):
            parts = [range(count)[share(count, rank, size)] for rank in range(size)]
            assert [i for part in parts for i in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_torchrun_says() -> None:
    said = {
        "TORCHELASTIC_RUN_ID": "job-7",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_ERROR_FILE": "/tmp/ranks/attempt_1/1/error.json",
    }
    assert from_environment({}) is None
    assert from_environment({"RANK": "0", "WORLD_SIZE": "2"}) is None, "not torchrun's"
    world = from_environment(said)
    assert world == World(3, 4, 1, 2, 1, 3, "job-7", "/tmp/ranks")
    assert world.restarts_left == 2
    for wrong in ({"RANK": "x"}, {"RANK": "4"}, {"LOCAL_RANK": "2"}, {"WORLD_SIZE": "0"}):
        with pytest.raises(ConfigError, match="start with torchrun"):
            from_environment({**said, **wrong})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["train.processes=200"], "200 processes cannot share a batch of 128"),
        (["train.processes=2", "train.device=cuda:1"], "need train.device auto, cpu or cuda"),
        (["train.processes=0"], ">= 1"),
    ],
)
def test_impossible_numbers_of_processes(override: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.check(catalog.load("quick", override))


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer import device as devices

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices.of_rank("auto", 1, 2) == torch.device("cuda", 1)
    assert devices.of_rank("cpu", 1, 4) == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"4 processes need a GPU each, this machine has 2"):
        devices.of_rank("auto", 1, 4)


def test_ranks_that_would_part_are_refused() -> None:
    def members(*found: tuple[str, str]) -> list[Member]:
        return [Member("host", rank, *one) for rank, one in enumerate(found)]

    sgd, muon = catalog.load("quick", ["optimizer.name='sgd'"]), catalog.load("fast")
    new, old = ("cuda:0 NVIDIA A", "bf16"), ("cuda:1 NVIDIA B", "fp16")
    for config in (sgd, muon):
        check_alike(members(new, ("cuda:1 NVIDIA A", "bf16")), config)
        check_alike(members(("cpu", "fp32"), ("cpu", "fp32")), config)
        with pytest.raises(
            ConfigError, match=r"bf16 \(cuda:0 NVIDIA A\), another in fp16 \(cuda:1"
        ):
            check_alike(members(new, old), config)
    other = members(new, ("cuda:1 NVIDIA B", "bf16"))
    check_alike(other, sgd)
    with pytest.raises(ConfigError, match="between NVIDIA A and NVIDIA B: choose GPUs of one kind"):
        check_alike(other, muon)


def test_the_rank_that_was_lost_is_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.ranks_log.write_text(
        "Root Cause (first observed failure):\n[0]:\n  time      : 2026-11-26_12:00:00\n"
        "  host      : box\n  rank      : 0 (local_rank: 0)\n  exitcode  : -9 (pid: 7)\n"
        "  error_file: <N/A>\n  traceback : Signal 9 (SIGKILL) received by PID 7\n"
    )
    said = "rank 0 ended: Signal 9 (SIGKILL) received by PID 7; ranks.log tells more"
    assert launch._why(run, 1) == said


def test_a_launch_without_an_end_tells_what_was_reached(tmp_path: Path) -> None:
    run = make_run(tmp_path, end=None, done=3, epochs=5, name="half")
    before = Follower(run).catch_up().elapsed
    heard = launch._Heard(None)
    heard.take(Tail(run.log))
    with run.locked():
        launch._end(run, heard, Control(run), "rank 0 ended", "")
    state = Follower(run).catch_up()
    assert state.ended is not None
    assert state.best is not None
    assert state.ended.best_accuracy == state.best.test_accuracy
    assert state.ended.best_epoch == state.best.epoch
    assert state.ended.seconds == before > 1
    assert before <= state.elapsed < before + 60, "its time goes on, in the log too"


def test_a_rank_lost_in_a_call_that_never_returns_ends_the_run_with_its_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, end=None, done=3, epochs=5, name="half")
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    lead = Lead.__new__(Lead)  # without its ranks
    lead.world = World(0, 2, 0, 2, restarts=0, max_restarts=0)
    lead._run, lead._log, lead._on_end = run, RunLog(run), f"touch {tmp_path / 'called'}"
    lead._abort("rank 1 of 2 is gone")
    assert left == [FAILED]
    state = folded(run)
    assert state.ended is not None
    assert state.best is not None
    assert (state.ended.state, state.ended.error) == ("failed", "rank 1 of 2 is gone")
    assert state.ended.best_accuracy == state.best.test_accuracy
    end = time.monotonic() + 60
    while not (tmp_path / "called").exists():
        assert time.monotonic() < end, "the command of --on-end was not started"
        time.sleep(0.02)


def test_a_stop_that_cannot_be_written_reaches_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, end=None, done=1)
    run.control.mkdir()  # as unwritable as on a full disk, for root too
    asked = Control()
    asked.request("stop")
    with subprocess.Popen(["sleep", "60"]) as process:
        code = launch._watch(process, run, asked, Tail(run.log), launch._Heard(None))
    assert code == -signal.SIGTERM


def test_a_stop_ends_a_torchrun_whose_ranks_never_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "STOP_SECONDS", 0.0)
    run = make_run(tmp_path, end=None, done=0)
    asked = Control()
    asked.request("stop")
    with subprocess.Popen(["sleep", "60"]) as process:
        code = launch._watch(process, run, asked, Tail(run.log), launch._Heard(None))
    assert code == -signal.SIGTERM
    assert run.control.read_bytes().count(b"stop") == 1


KILLED_TORCHRUN = """
import os, subprocess, sys
sleep = "import time; time.sleep(60)"
rank = [sys.executable, "-c", sleep, "trainer.distributed.rank", sys.argv[1]]
print(subprocess.Popen(rank, start_new_session=True).pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_no_rank_outlives_a_torchrun_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would write into the log without the lock; the folder stays for whoever asks why."""
    run = make_run(tmp_path, end=None, done=0)
    pids: list[int] = []

    def start(run: RunDir, config: object, lock: int, job: str) -> subprocess.Popen[bytes]:
        torchrun = [sys.executable, "-c", KILLED_TORCHRUN, job]
        process = subprocess.Popen(torchrun, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            pids.append(int(process.stdout.readline()))
        return process

    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.RunEnded):
            lived.append(psutil.pid_exists(pids[0]) and lives(psutil.Process(pids[0])))

    lived: list[bool] = []
    monkeypatch.setattr(launch, "_start", start)
    job = Job(run=str(run.path))
    with run.locked() as lock:
        ended = launch.launch(run, Control(), read_config(run), lock, job=job, listener=listen)
    assert lived == [False]
    assert (ended.state, ended.error) == ("failed", "torchrun was killed (signal 9)")
    assert run.log.is_file()


def test_a_launch_tells_that_the_folder_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, end=None, done=1)
    heard: list[events.Envelope] = []

    def start(*_: object) -> subprocess.Popen[bytes]:
        shutil.rmtree(run.path)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(launch, "_start", start)
    job = Job(run=str(run.path))
    config = read_config(run)
    with run.locked() as lock:
        ended = launch.launch(run, Control(), config, lock, job=job, listener=heard.append)
    assert (ended.state, ended.error) == ("failed", DELETED)
    assert [envelope.event for envelope in heard] == [ended]
    assert not run.path.exists()


def test_a_rank_ends_with_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1, 2, 1, 2, max_restarts=3)
    assert (world.orphaned, world.restarts_left) == ("", 3)
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    gone = World(1, 2, 1, 2, max_restarts=3, parent=0)
    assert gone.restarts_left == 0, "nobody will start anew"
    monkeypatch.setattr(os, "_exit", left.put)
    rank.end_with_parent(gone)
    assert left.get(timeout=60) == rank.FAILED
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(watch, "SECONDS", 0.01)
    monkeypatch.setattr(watch, "PATIENCE", 0.0)
    watch.Watch(gone, told.put)  # the ranks have not met
    assert told.get(timeout=60) == "torchrun, which started the ranks, is gone"


def test_processes_of_another_container_are_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two containers may have one host name, and the numbers of their processes mean nothing."""
    with subprocess.Popen(["sleep", "0"]) as dead:
        pass
    board: dict[str, bytes] = {}
    store = SimpleNamespace(set=lambda k, v: board.update({k: v.encode()}), get=board.get)
    groups = []
    for at in range(2):
        group = Group.__new__(Group)
        group.world, group.rank, group.size = World(at, 2, 0, 1), at, 2
        group._store, group.sum = store, lambda values: values  # type: ignore[method-assign,assignment]
        groups.append(group)
    for place, lost in (("elsewhere", False), (_place(), True)):
        with monkeypatch.context() as patch:
            patch.setattr("trainer.distributed.group._place", lambda place=place: place)
            patch.setattr(os, "getpid", lambda: dead.pid)
            board["member/0"] = b'{"host":"","pid":0}'
            groups[1].introduce("cpu", "fp32")
        groups[0].introduce("cpu", "fp32")
        assert bool(groups[0].lost_process()) == lost


def test_the_command_of_on_end_is_started_after_a_stop_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, end=None, done=0)
    asked = Control()
    asked.request("stop")
    called: list[str] = []
    monkeypatch.setattr(session, "call", lambda command, *_, **__: called.append(command))
    gathered = SimpleNamespace(dismiss=lambda: None)
    monkeypatch.setattr(session, "_gather", lambda *_: gathered)
    for world in (None, World(0, 2, 0, 2)):
        assert train_run(run, asked, on_end="x", world=world).state == "stopped"
    assert called == ["x", "x"]
