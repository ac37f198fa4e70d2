"""The C++ of this folder, compiled for this machine when it is first wanted, and loaded.

The library is kept in the user's cache, under a name that tells source, compiler and processor. It
is code: only one that this user alone can write is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from trainer.files.whole_file import whole_file

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent
SOURCES = [FOLDER / name for name in ("kernels.cpp", "convolutions.cpp", "muon.cpp")]
HEADERS = [FOLDER / name for name in ("bf16.h", "tiles.h")]
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
TIMEOUT = 60.0
"""Seconds; it takes four."""


class BuildError(Exception):
    """The kernels cannot be had; the message says why, in one line."""


_AT, _COUNT, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
ARGUMENTS = {
    "norm_takes": [_COUNT] * 2,
    "norm_forward": [_AT] * 6 + [_FLOAT] * 2 + [_INT] + [_COUNT] * 4 + [_AT, _INT] + [_AT] * 2,
    "norm_apply": [_AT] * 6 + [_FLOAT, _INT] + [_COUNT] * 2 + [_INT, _AT],
    "norm_backward": [_AT] * 6 + [_INT] + [_COUNT] * 4 + [_INT] + [_AT] * 4,
    "add": [_AT] * 2 + [_COUNT, _INT, _AT],
    "pool_forward": [_AT] + [_COUNT] * 4 + [_INT, _AT],
    "pool_backward": [_AT] * 2 + [_COUNT] * 4 + [_INT, _AT],
    "tiles_ready": [],
    "convolve": [_AT] * 5 + [_INT] * 2 + [_AT] * 3,
    "convolve_backward": [_AT] * 7 + [_INT] + [_AT] * 2,
    "muon": [_AT] * 5 + [_COUNT] + [_FLOAT] * 3 + [_INT],
    "augment": [_AT] * 2 + [_COUNT] + [_AT] * 7 + [_COUNT] + [_AT] * 2 + [_INT, _AT],
}
"""Of the functions in the sources."""


def at(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin, as the kernels take it; null for none."""
    return None if tensor is None else tensor.data_ptr()


def compiler() -> list[str]:
    """The command of this machine's C++ compiler, ``CXX`` first; empty: there is none."""
    try:
        own = shlex.split(os.environ.get("CXX", ""))
    except ValueError:  # a quotation without an end
        return []
    for name, *options in [own] if own else [[name] for name in COMPILERS]:
        path = shutil.which(name)
        if path:
            return [path, *options]
    return []


def no_compiler() -> str:
    """What is wrong where ``compiler`` finds none, in one line."""
    own = os.environ.get("CXX", "").strip()
    return f"CXX={own!r} names no program" if own else "no C++ compiler is installed (g++)"


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        BuildError: no compiler, or it fails.
    """
    if platform.system() != "Linux":
        raise BuildError("they are made for Linux")
    command = compiler()
    if not command:
        raise BuildError(no_compiler())
    try:
        found = _from_cache(command)
        for name, types in ARGUMENTS.items():
            getattr(found, name).argtypes = types
        return found
    except subprocess.TimeoutExpired:
        raise BuildError(f"{shlex.join(command)} took longer than {TIMEOUT:.0f} s") from None
    except (OSError, AttributeError) as error:  # AttributeError: a function is missing
        raise BuildError(str(error)) from None


def _from_cache(command: list[str]) -> ctypes.CDLL:
    sources = [source.read_text(encoding="utf-8") for source in (*HEADERS, *SOURCES)]
    version = _run([*command, "--version"])
    told = "\n".join((*sources, *command, version, *FLAGS, _processor()))
    digest = hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()
    name = f"kernels-{digest[:16]}.so"
    folder = platformdirs.user_cache_path("cifar-tui")
    with suppress(OSError):  # then it is not there, which is looked at next
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = folder.resolve() / name if _private(folder) and _out_of_reach(folder) else None
    if kept is not None and _private(kept) and _whole(kept):
        with suppress(OSError):
            return ctypes.CDLL(str(kept))
    return _compiled(command, kept)


def _compiled(command: list[str], kept: Path | None) -> ctypes.CDLL:
    """Compile, and keep the library where that can be written."""
    with tempfile.TemporaryDirectory(prefix="cifar-tui-") as own:
        made = Path(own) / "kernels.so"
        _run(to_compile(command, made))
        with suppress(OSError):  # read-only or full: it is compiled the next time, too
            if kept is not None:
                _keep(made.read_bytes(), kept)
                return ctypes.CDLL(str(kept))
        return ctypes.CDLL(str(made))


def to_compile(command: list[str], library: Path) -> list[str]:
    """The command that makes the library."""
    return [*command, *FLAGS, "-fopenmp", "-o", str(library), *map(str, SOURCES)]


def _keep(library: bytes, kept: Path) -> None:
    """Its checksum comes after it, where the loader does not look."""
    with whole_file(kept) as file:
        os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        file.write(library + hashlib.sha256(library).digest())


def _whole(kept: Path) -> bool:
    """Whether a library that was kept has its checksum: to load half of one ends the process."""
    try:
        content = kept.read_bytes()
    except OSError:
        return False
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _run(command: list[str]) -> str:
    """What a command prints; bytes that are not UTF-8 are replaced."""
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT,
        check=False,
    )
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


def _out_of_reach(path: Path) -> bool:
    """Whether nobody else, but root, can put another in its place: where all folders it is in are
    this user's or root's, and those that all may write to let none take what is another's."""
    try:
        found = [parent.stat() for parent in path.resolve().parents]
    except OSError:
        return False
    return all(
        parent.st_uid in (0, os.getuid())
        and (not parent.st_mode & stat.S_IWOTH or parent.st_mode & stat.S_ISVTX)
        for parent in found
    )


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
