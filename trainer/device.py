"""Devices and precision: what was asked for against what the machine has."""

from __future__ import annotations

import functools
import gc
import os
from typing import Literal

import psutil
import torch

from trainer.errors import DeviceError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve(name: str) -> torch.device:
    """The device of a name; ``auto`` takes cuda, then mps, then cpu.

    Raises:
        DeviceError: this machine does not have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            have = f"{count} CUDA device(s)" if count else "no CUDA device"
            raise DeviceError(f"--device {name}: torch sees {have} here; use --device cpu or auto")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: torch sees no Apple GPU here; use --device cpu or auto")
    return device


def of_rank(name: str, local_rank: int, local_size: int) -> torch.device:
    """The device of one of several processes of this machine: a GPU of its own, or the CPU.

    Raises:
        DeviceError: fewer GPUs than processes.
    """
    if local_size == 1:
        return resolve(name)
    device = resolve("cuda" if name == "auto" and torch.cuda.is_available() else name)
    if device.type != "cuda":
        return torch.device("cpu")
    have = torch.cuda.device_count()
    if local_size > have:
        raise DeviceError(
            f"{local_size} processes need a GPU each, this machine has {have}: "
            f"use --processes {have}, or --device cpu"
        )
    return torch.device("cuda", local_rank)


def describe(device: torch.device) -> str:
    """A device's name for the user."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return str(device)


def available() -> tuple[str, ...]:
    """All devices of this machine, the automatic choice first."""
    found = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return tuple(describe(d) for d in [*found, torch.device("cpu")])


def precision(name: str, device: torch.device) -> Precision:
    """The precision of a name on a device.

    ``auto`` depends on the hardware alone and not on a measurement, so that the same seed gives
    the same losses (on a GPU up to the algorithms that cuDNN chooses by measuring): bf16 on GPUs
    and CPUs with bf16 products (Ampere and later; AMX, AVX512-BF16), fp16 on older GPUs, else fp32.

    Raises:
        DeviceError: the device cannot do it.
    """
    if name == "fp32":
        return "fp32"
    if device.type == "cuda":
        if name == "auto":
            return "bf16" if multiplies_bf16(device) else "fp16"
        return "bf16" if name == "bf16" else "fp16"
    if name == "fp16":
        if device.type == "mps":
            return "fp16"
        raise DeviceError("--precision fp16 needs a GPU: use bf16, fp32 or auto on a CPU")
    if device.type == "cpu":
        return "bf16" if name == "bf16" or _cpu_has_bf16_products() else "fp32"
    return "bf16" if name == "bf16" else "fp32"


@functools.cache
def multiplies_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are faster than in fp32 on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and _cpu_has_bf16_products()


def _cpu_has_bf16_products() -> bool:
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(map(_cpu_says, probes))


def _cpu_says(name: str) -> bool:
    # private in torch, so absent is possible: then no, which is always right
    probe = getattr(torch.cpu, name, None)
    return probe is not None and bool(probe())


def memory(device: torch.device) -> int:
    """Bytes: what torch has reserved on a GPU, or what this process holds on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return int(psutil.Process(os.getpid()).memory_info().rss)


def give_memory_back() -> None:
    """After a run: what only its graphs and a cycle of objects hold goes back to the GPU."""
    gc.collect()  # memory that gets short on a GPU does not make Python look for cycles
    if torch.cuda.is_initialized():
        # those of cuBLAS are kept for each stream; private in torch, so absent is possible
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
        torch.cuda.empty_cache()


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on the device, without waiting for what the device has still to do."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class HostCopy:
    """A copy of a tensor to the host: on CUDA done some steps later, elsewhere at once."""

    def __init__(self, values: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.device.type != "cuda":
            self._values = values.to("cpu", copy=True)
            return
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._values.copy_(values, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(values.device))

    def ready(self) -> bool:
        """Whether it can be taken without waiting."""
        return self._event is None or self._event.query()

    def numbers(self) -> list[float]:
        """What was copied, when it is ready."""
        found: list[float] = self._values.tolist()
        return found


def synchronize(device: torch.device) -> None:
    """Wait for the device: at a pause, a stop or an evaluation's end, never from step to step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
