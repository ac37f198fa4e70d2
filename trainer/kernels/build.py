"""kernels.cpp, compiled for this machine when it is first wanted, and loaded.

The library is kept in the user's cache, under a name that tells source, compiler and processor. It
is code: only one that this user alone can write is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.cpp")
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
TIMEOUT = 60.0
"""Seconds; it takes one or two."""


class BuildError(Exception):
    """The kernels cannot be had; the message says why, in one line."""


_AT, _COUNT, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
ARGUMENTS = {
    "norm_takes": [_COUNT] * 2,
    "norm_forward": [_AT] * 6 + [_FLOAT] * 2 + [_INT] + [_COUNT] * 4 + [_INT] + [_AT] * 2,
    "norm_backward": [_AT] * 6 + [_INT] + [_COUNT] * 4 + [_INT] + [_AT] * 3,
    "add": [_AT] * 2 + [_COUNT, _INT, _AT],
    "pool_forward": [_AT] + [_COUNT] * 4 + [_INT, _AT],
    "pool_backward": [_AT] * 2 + [_COUNT] * 4 + [_INT, _AT],
    "augment": [_AT] * 2 + [_COUNT] + [_AT] * 7 + [_COUNT] + [_AT] * 2 + [_INT, _AT],
}
"""Of the functions in kernels.cpp."""


def at(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin, as the kernels take it; null for none."""
    return None if tensor is None else tensor.data_ptr()


def compiler() -> str:
    """The C++ compiler of this machine, ``CXX`` first; empty: there is none."""
    own = os.environ.get("CXX", "").split()[:1]
    return next(filter(None, map(shutil.which, own or COMPILERS)), "")


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        BuildError: no compiler, or it fails.
    """
    if platform.system() != "Linux":
        raise BuildError("they are made for Linux")
    path = compiler()
    if not path:
        raise BuildError("no C++ compiler is installed (g++)")
    try:
        found = _from_cache(path)
        for name, types in ARGUMENTS.items():
            getattr(found, name).argtypes = types
        return found
    except subprocess.TimeoutExpired:
        raise BuildError(f"{path} took longer than {TIMEOUT:.0f} s") from None
    except OSError as error:
        raise BuildError(str(error)) from None


def _from_cache(path: str) -> ctypes.CDLL:
    told = "\n".join((SOURCE.read_text(), path, _run([path, "--version"]), *FLAGS, _processor()))
    name = f"kernels-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    folder = platformdirs.user_cache_path("cifar-tui")
    with suppress(OSError):  # then it is not there, which is looked at next
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _private(folder):
        with tempfile.TemporaryDirectory(prefix="cifar-tui-") as own:
            return _compiled(path, Path(own) / name)
    kept = folder / name
    if _private(kept):
        return ctypes.CDLL(str(kept))
    return _compiled(path, kept)


def _compiled(path: str, target: Path) -> ctypes.CDLL:
    """Compile to a name of its own first: two processes may do so at once."""
    handle, made = tempfile.mkstemp(dir=target.parent, prefix=".kernels-", suffix=".so")
    os.close(handle)
    try:
        _run([path, *FLAGS, "-fopenmp", "-o", made, str(SOURCE)])
        Path(made).chmod(stat.S_IRUSR | stat.S_IWUSR)
        Path(made).replace(target)
    finally:
        Path(made).unlink(missing_ok=True)
    return ctypes.CDLL(str(target))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        first = next(iter(done.stderr.strip().splitlines()), "no message")
        raise BuildError(f"{command[0]} failed: {first}")
    return done.stdout


def _private(path: Path) -> bool:
    """Whether it is there, this user owns it and no other can write it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
