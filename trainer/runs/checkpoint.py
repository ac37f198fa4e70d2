"""Checkpoints: written atomically, loaded without running anything that is in them."""

from __future__ import annotations

import os
import pickle
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from trainer.errors import RunError
from trainer.files.regular_file import open_regular
from trainer.files.whole_file import whole_file

FORMAT = 1


def pack(state: dict[str, Any]) -> memoryview:
    """The bytes of a checkpoint of tensors, numbers, strings, lists and dicts.

    What is in it may change right after, on the device and elsewhere.
    """
    # in memory first: torch's zip writer hides a full disk behind an error of its own
    whole = BytesIO()
    torch.save({"format": FORMAT, **state}, whole)
    return whole.getbuffer()


def write(packed: memoryview, path: Path) -> None:
    """Put a packed checkpoint on disk, whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with whole_file(path) as file:
        file.write(packed)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises:
        RunError: it is missing, damaged, of another format, or holds more than plain data.
    """
    return unpack(read(path), path.name)


def read(path: Path, *, limit: int | None = None) -> bytes:
    """The bytes of a checkpoint's file, unchecked.

    Args:
        path: the file.
        limit: so many bytes at most, where the run may come from someone else.

    Raises:
        RunError: it cannot be read, or is longer.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise RunError(
                    f"the checkpoint {path.name} has {size / 1e9:.1f} GB: of more than "
                    f"{limit / 1e9:.1f} GB none is opened"
                )
            return file.readall()
    except FileNotFoundError:
        raise RunError(f"there is no checkpoint {path.name} in the run's folder") from None
    except OSError as error:
        raise RunError(f"cannot read the checkpoint {path.name}: {error.strerror}") from None


def unpack(packed: bytes, name: str) -> dict[str, Any]:
    """The state in a checkpoint's bytes; raises as ``load``."""
    try:
        _check_sums(packed)
        state = torch.load(BytesIO(packed), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RunError(f"the checkpoint {name} holds more than weights and is not opened") from None
    except Exception:  # a damaged file makes torch raise almost anything, struct.error included
        other = "look into last.pt" if name == "best.pt" else "train a new run"
        raise RunError(
            f"the checkpoint {name} is damaged: put a copy of it back, or {other}"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunError(f"the checkpoint {name} is of a format this version does not know")
    return state


def _check_sums(packed: bytes) -> None:
    """Compare what lies in an archive with its checksums: torch writes them and reads past them.

    Raises:
        zipfile.BadZipFile: a bit is another one, or the archive is none that torch writes.
    """
    with zipfile.ZipFile(BytesIO(packed)) as archive:
        entries = archive.infolist()
        # neither compressed nor twice: nothing in the bytes takes longer than their own length
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > len(packed):
            raise zipfile.BadZipFile
        if archive.testzip() is not None:
            raise zipfile.BadZipFile
