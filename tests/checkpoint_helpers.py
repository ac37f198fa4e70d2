"""Checkpoints as a run leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.runs import checkpoint


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    checkpoint.write(checkpoint.pack(state), path)
