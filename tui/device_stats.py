"""Figures of the machine for the device panel: a GPU through NVML, else CPU and memory. Torch-free.

In containers NVML knows processes by the host's numbers, so what a run itself holds comes from its
own events and not from here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import psutil

FIRST_SECONDS = 0.1
"""The use of a processor is that since the reading before; the first has to wait for its own."""
UNNAMED = "GPU"
_CUDA = re.compile(r"cuda(?::(\d+))?\b")


@dataclass(frozen=True)
class Sample:
    """One reading, rounded so that noise is no change; ``None`` where nobody tells."""

    name: str
    gpu: bool
    use: int | None
    """Per cent: of the time a kernel ran, or of all cores."""
    used: int
    total: int
    """Bytes of all processes together."""
    celsius: int | None = None
    watts: int | None = None
    reason: str = ""
    """Why there are no figures of the GPU that was asked for."""


class DeviceStats:
    """Reads the figures of one device, as a run's log names it: ``cpu``, ``cuda:0 NVIDIA …``.

    Used on one thread at a time. Without a driver the CPU is shown: that is normal.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._nvml: Any = None
        self._handle: Any = None
        self._reason = ""
        self._looked = False
        self._interval: float | None = FIRST_SECONDS

    def read(self) -> Sample:
        """Take a reading; some milliseconds, the first one of a processor a tenth of a second."""
        if not self._looked:
            self._looked = True
            self._look()
        if self._handle is not None:
            return self._gpu(self._handle)
        memory = psutil.virtual_memory()
        cores = psutil.cpu_count() or 1
        use, self._interval = psutil.cpu_percent(self._interval), None
        return Sample(
            name=f"CPU, {cores} core{'s' * (cores != 1)}",
            gpu=False,
            use=round(use),
            used=_coarse(memory.total - memory.available),
            total=memory.total,
            reason=self._reason,
        )

    def _look(self) -> None:
        asked = _CUDA.match(self.device)
        if asked is None:
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            handle = self._find(int(asked[1] or 0))
        except Exception:  # no library, no driver, no permission, another number of GPUs
            self._reason = "the GPU's driver gives no figures here"
            return
        name = self._name(handle)
        known = self.device[asked.end() :].strip()
        if known and name != UNNAMED and not (known.startswith(name) or name.startswith(known)):
            self._reason = f"no figures: its driver counts another GPU in this place ({name})"
            return
        self._handle = handle

    def _find(self, number: int) -> Any:
        """torch counts the GPUs that ``CUDA_VISIBLE_DEVICES`` names, in its order; NVML all."""
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        named = listed[number].strip() if number < len(listed) else ""
        if named.startswith("GPU-"):
            return self._nvml.nvmlDeviceGetHandleByUUID(named)
        return self._nvml.nvmlDeviceGetHandleByIndex(int(named) if named.isdecimal() else number)

    def _name(self, handle: Any) -> str:
        name = self._ask("nvmlDeviceGetName", handle) or UNNAMED
        return name.decode(errors="replace") if isinstance(name, bytes) else str(name)

    def _gpu(self, handle: Any) -> Sample:
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        use = self._ask("nvmlDeviceGetUtilizationRates", handle)
        watts = self._ask("nvmlDeviceGetPowerUsage", handle)
        return Sample(
            name=self._name(handle),
            gpu=True,
            use=use.gpu if use is not None else None,
            used=_coarse(memory.used) if memory is not None else 0,
            total=memory.total if memory is not None else 0,
            celsius=self._ask("nvmlDeviceGetTemperature", handle, 0),
            watts=round(watts / 1000) if watts is not None else None,
        )

    def _ask(self, question: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, question)(*arguments)
        except Exception:  # each card refuses something
            return None


def _coarse(value: float) -> int:
    """Bytes in steps of 64 MiB."""
    return round(value / (64 << 20)) * (64 << 20)
