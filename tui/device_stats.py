"""Figures of the machine for the device panel: GPUs through NVML, else CPU and memory. Torch-free.

In containers NVML knows processes by the host's numbers, so what a run itself holds comes from its
own events and not from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True)
class Gpu:
    """One GPU; ``None`` where the driver does not tell."""

    name: str
    use: int | None
    """Per cent of the time a kernel ran."""
    used: int
    total: int
    """Bytes, of all processes."""
    celsius: int | None
    watts: int | None


@dataclass(frozen=True)
class Sample:
    """One reading, rounded so that noise is no change."""

    gpus: tuple[Gpu, ...]
    cpu: int
    """Per cent of all cores since the last reading."""
    cores: int
    memory_used: int
    memory_total: int
    """Bytes."""


class DeviceStats:
    """Reads the figures. Without an NVIDIA driver there are no GPUs, which is normal."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
        self._looked = False
        psutil.cpu_percent()  # the first call has nothing to compare with

    def read(self) -> Sample:
        """Take a reading; some milliseconds."""
        if not self._looked:
            self._look()
        memory = psutil.virtual_memory()
        return Sample(
            gpus=tuple(self._gpu(handle) for handle in self._handles),
            cpu=round(psutil.cpu_percent()),
            cores=psutil.cpu_count() or 1,
            memory_used=round(memory.used, -8),
            memory_total=memory.total,
        )

    def _look(self) -> None:
        self._looked = True
        try:
            import pynvml

            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            self._nvml = pynvml
        except Exception:  # no driver, no library, no permission: no GPU figures
            self._handles = []

    def _gpu(self, handle: Any) -> Gpu:
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        use = self._ask("nvmlDeviceGetUtilizationRates", handle)
        watts = self._ask("nvmlDeviceGetPowerUsage", handle)
        name = self._ask("nvmlDeviceGetName", handle) or "GPU"
        return Gpu(
            name=name.decode() if isinstance(name, bytes) else str(name),
            use=use.gpu if use is not None else None,
            used=round(memory.used, -8) if memory is not None else 0,
            total=memory.total if memory is not None else 0,
            celsius=self._ask("nvmlDeviceGetTemperature", handle, 0),
            watts=round(watts / 1000) if watts is not None else None,
        )

    def _ask(self, question: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, question)(*arguments)
        except Exception:  # each card refuses something
            return None
