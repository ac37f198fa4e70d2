from __future__ import annotations

import weakref

import pytest
import torch

from trainer import device as devices
from trainer.errors import DeviceError
from trainer.loop.meter import Meter

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_one_clear_line() -> None:
    with pytest.raises(DeviceError, match="no CUDA device here; use --device cpu"):
        devices.resolve("cuda")
    assert devices.resolve("auto").type in ("cpu", "mps")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_takes_the_gpu() -> None:
    assert devices.resolve("auto").type == "cuda"
    with pytest.raises(DeviceError):
        devices.resolve("cuda:99")
    assert devices.memory(devices.resolve("cuda")) >= 0


def test_precision_on_a_cpu() -> None:
    assert devices.precision("fp32", CPU) == "fp32"
    assert devices.precision("bf16", CPU) == "bf16"
    assert devices.precision("auto", CPU) in ("fp32", "bf16")
    with pytest.raises(DeviceError, match="needs a GPU"):
        devices.precision("fp16", CPU)


def test_the_meter_reads_windows_and_totals() -> None:
    meter = Meter(CPU)
    meter.add(torch.tensor(8.0), torch.tensor(1))
    meter.images += 4
    meter.begin_read()
    assert meter.reading()
    assert meter.ready()
    assert meter.window() == (2.0, 0.25)
    meter.add(torch.tensor(2.0), torch.tensor(4))
    meter.images += 4
    meter.begin_read()
    meter.add(torch.tensor(100.0), torch.tensor(0))
    meter.images += 4
    assert meter.window() == (0.5, 1.0)
    assert meter.totals() == (pytest.approx(110 / 12), pytest.approx(5 / 12))
    meter.begin_read()
    assert meter.window() == (25.0, 0.0)
    meter.begin_read()
    assert meter.window() is None


def test_the_meter_goes_on_from_a_checkpoint() -> None:
    first = Meter(CPU)
    first.add(torch.tensor(8.0), torch.tensor(1))
    first.images += 4
    second = Meter(CPU)
    second.load_state_dict(first.state_dict())
    second.add(torch.tensor(2.0), torch.tensor(4))
    second.images += 4
    second.begin_read()
    assert second.window() == (0.5, 1.0)
    assert second.totals() == (10 / 8, 5 / 8)


def test_old_gpus_multiply_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    for version, native in ((7, 5), False), ((8, 0), True), ((12, 0), True):
        devices.multiplies_bf16.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, version=version: version)
        assert devices.multiplies_bf16(gpu) is native
        assert devices.precision("auto", gpu) == ("bf16" if native else "fp16")
        assert devices.precision("bf16", gpu) == "bf16"
    devices.multiplies_bf16.cache_clear()


def test_after_a_run_its_memory_goes_back_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        """Keeps itself, as a run and its recorded step keep each other."""

        def __init__(self) -> None:
            self.me = self

    kept = weakref.ref(Held())
    emptied: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(kept()))
    devices.give_memory_back()
    assert emptied == [None], "after what was only held in a circle"
