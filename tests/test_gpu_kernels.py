"""Triton's kernels, each case on a GPU or by Triton's interpreter, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.training_helpers import log_of, tiny_dataset, tiny_run
from trainer import config as settings
from trainer import events
from trainer.device import Precision
from trainer.kernels import fused
from trainer.kernels.build import BuildError, compiler
from trainer.loop import own_kernels
from trainer.presets import catalog

CASES = Path(__file__).with_name("triton_cases.py")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


COMPILED = """
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class NoGpu:
    def get_current_target(self):
        return GPUTarget("cuda", 80, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0


def run(self, *args, grid, warmup, **options):
    compiled = compile_and_run(self, *args, grid=grid, warmup=True, **options)
    print(self.fn.__name__, len(compiled.asm["cubin"]))
    return compiled


driver.set_active(NoGpu())
compile_and_run, JITFunction.run = JITFunction.run, run

from model import registry
from trainer.kernels import gpu

for name in sys.argv[1:]:
    net = registry.build(name).to(memory_format=torch.channels_last)
    gpu.choose_per_layer(net)
    images = torch.zeros(2, 3, 32, 32).bfloat16().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(images).float().sum().backward()
    net.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        net(images)
"""
"""Each kernel is compiled for a GPU with what the layers give it, and not started."""


@pytest.fixture(autouse=True)
def _tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


def refuse(device: torch.device) -> None:
    raise BuildError("Triton makes none")


def run(**environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_by_the_interpreter() -> None:
    pytest.importorskip("triton")
    run(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


def test_they_compile_for_a_gpu_as_nets_call_them(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-c", COMPILED, "fast", "resnet8"]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = {name for name, *_ in map(str.split, done.stdout.splitlines())}
    assert kernels == {
        *("moments", "pool_moments", "finish_moments", "normalise"),
        *("gradient_sums", "finish_sums", "gradient_of_x"),
    }


@pytest.mark.gpu
@on_cuda
def test_on_a_gpu() -> None:
    run()


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize("net", ["resnet8", "fast"])
def test_cuda_a_run_with_kernels_learns_as_one_without(tmp_path: Path, net: str) -> None:
    found = {}
    for kernels in ("off", "on"):
        overrides = f"model.name='{net}'", f"train.kernels='{kernels}'", "optimizer.name='muon'"
        run = tiny_run(tmp_path / kernels, "train.device=cuda", "train.epochs=4", *overrides)
        log = log_of(run)
        told = [e.code for e in log if isinstance(e, events.Notice)]
        assert "cuda-graphs" in told
        assert "no-kernels" not in told
        found[kernels] = [
            e.loss for e in log if isinstance(e, events.EpochEnded | events.EvalEnded)
        ]
        assert isinstance(log[-1], events.RunEnded)
        assert log[-1].state == "completed", log[-1].error
    assert found["on"] == pytest.approx(found["off"], rel=0.1)


@pytest.mark.parametrize(
    ("device", "precision", "asked", "grouped", "told"),
    [
        ("cuda", "bf16", {}, False, ""),
        ("cuda", "bf16", {"kernels": "off"}, False, ""),
        ("cpu", "bf16", {"kernels": "off"}, False, ""),
        ("cpu", "fp32", {}, False, ""),
        ("cpu", "fp32", {"kernels": "on"}, False, "they are for bf16, not fp32"),
        ("mps", "fp16", {"kernels": "on"}, False, "there are none for mps"),
        ("cuda", "fp16", {"kernels": "on"}, False, "they are for bf16, not fp16"),
        ("cuda", "bf16", {"kernels": "on", "compile": True}, False, "train.compile makes its own"),
        ("cuda", "bf16", {"kernels": "on", "cuda_graphs": "off"}, False, "cuda_graphs is off"),
        ("cuda", "bf16", {"kernels": "on"}, True, "several processes hear of each other"),
    ],
)
def test_where_there_are_none_and_who_is_told(
    device: str, precision: Precision, asked: dict[str, object], grouped: bool, told: str
) -> None:
    overrides = [settings.setting(f"train.{key}", value) for key, value in asked.items()]
    config = catalog.load("fast", overrides)
    there, problem = own_kernels.find(config, torch.device(device), precision, grouped=grouped)
    assert not there
    assert told in problem
    assert problem.startswith("training without own kernels: ") == bool(told)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (None, "Triton cannot be imported: "),
        (SimpleNamespace(check=refuse), "training takes longer than it need: Triton makes none"),
        (SimpleNamespace(check=lambda device: None), ""),
    ],
)
def test_on_a_gpu_they_are_there_where_triton_makes_them(
    monkeypatch: pytest.MonkeyPatch, module: object, told: str
) -> None:
    monkeypatch.setitem(sys.modules, "trainer.kernels.gpu", module)
    config = catalog.load("fast", ["train.kernels='on'"])
    there, problem = own_kernels.find(config, torch.device("cuda"), "bf16", grouped=False)
    assert there == (not told)
    assert told in problem


@pytest.mark.parametrize("kernels", ["off", "auto"])
def test_on_a_cpu_a_run_trains_with_and_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str
) -> None:
    exchanged: list[nn.Module] = []
    monkeypatch.setattr(fused, "choose_per_layer", exchanged.append)
    overrides = f"train.kernels='{kernels}'", "train.precision='bf16'", "train.epochs=1"
    log = log_of(tiny_run(tmp_path, *overrides))
    assert isinstance(log[-1], events.RunEnded)
    assert log[-1].state == "completed", log[-1].error
    assert bool(exchanged) == (kernels == "auto" and bool(compiler()))
