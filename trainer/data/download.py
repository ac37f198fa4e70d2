"""Download an official archive, check it, and unpack only what belongs to it."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trainer.data import python_layout
from trainer.data.python_layout import Layout
from trainer.errors import DataError

CHUNK = 1 << 18
TIMEOUT_SECONDS = 30
SPACE_NEEDED = 400_000_000
"""Bytes: the archive and what is in it."""
LONGEST = 200_000_000
"""Bytes: more than either official archive has (170,498,071 and 169,001,437)."""
INSTEAD = "train on --data synthetic, or give a folder with --data"


def download(
    name: str, data_dir: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Download ``cifar10`` or ``cifar100`` into ``data_dir``; nothing is done when it is there.

    Args:
        name: which archive.
        data_dir: made when it does not exist.
        progress: called with bytes done and in all (0 when unknown); may raise to cancel.

    Returns:
        The folder with the verified files.

    Raises:
        DataError: no network, a wrong checksum, no space, another download at work, or a damaged
            folder in its place; one line.
    """
    layout = python_layout.LAYOUTS.get(name)
    if layout is None:
        raise DataError(f"{name} cannot be downloaded, only {' and '.join(python_layout.LAYOUTS)}")
    target = data_dir / layout.folder
    partial = data_dir / f".{layout.folder}.partial"
    try:
        if target.exists():  # a set that several share may lie where only one of them writes
            return _verify(target, layout)
        data_dir.mkdir(parents=True, exist_ok=True)
        with _alone(data_dir / f".{layout.folder}.lock"):
            if target.exists():
                return _verify(target, layout)
            shutil.rmtree(partial, ignore_errors=True)
            free = shutil.disk_usage(data_dir).free
            if free < SPACE_NEEDED:
                raise DataError(
                    f"{data_dir} has {free // 10**6} MB left, {SPACE_NEEDED // 10**6} MB are needed"
                )
            (partial / layout.folder).mkdir(parents=True)
            try:
                _fetch(layout, partial / "archive.partial", progress)
                _unpack(layout, partial / "archive.partial", partial / layout.folder)
                os.rename(partial / layout.folder, target)  # noqa: PTH104  # atomic
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        place = error.filename or data_dir
        raise DataError(f"cannot write {place}: {error.strerror or error}") from None
    return target


def _archive(layout: Layout) -> tuple[str, str]:
    """Address and MD5 of an official archive, as torchvision knows them."""
    from torchvision.datasets import CIFAR10, CIFAR100

    known = CIFAR10 if layout.kind == "cifar10" else CIFAR100
    return known.url, known.tgz_md5


def _fetch(layout: Layout, path: Path, progress: Callable[[int, int], None]) -> None:
    url, md5 = _archive(layout)
    digest, done = hashlib.md5(usedforsecurity=False), 0
    request = urllib.request.Request(url, headers={"User-Agent": "cifar-tui"})
    with _network(layout):
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    with response, path.open("wb") as file:
        total = _length(response.headers)
        _check_length(layout, total)
        progress(0, total)
        while True:
            with _network(layout):
                chunk = response.read(CHUNK)
            if not chunk:
                break
            _check_length(layout, done + len(chunk))
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
    if done < total:
        raise DataError(
            f"the download of {layout.title} ended after {done:,} of {total:,} bytes: "
            f"run {layout.download_command()} again"
        )
    if digest.hexdigest() != md5:
        raise DataError(
            f"the downloaded {layout.title} does not have the official checksum and was deleted: "
            f"run {layout.download_command()} again, {INSTEAD}"
        )


def _check_length(layout: Layout, size: int) -> None:
    """Before a disk is filled with what only the checksum would refuse."""
    if size > LONGEST:
        raise DataError(
            f"what the server sends as {layout.title} is longer than the official archive, it was "
            f"not kept: {INSTEAD}"
        )


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("Content-Length") or ""
    return int(text) if text.isdecimal() else 0


def _unpack(layout: Layout, archive: Path, folder: Path) -> None:
    """Write the known files, each with its own checksum; nothing else in the archive is touched."""
    wanted = {f"{layout.folder}/{name}": name for name in layout.files}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name.removeprefix("./"))
                content = tar.extractfile(member) if name and member.isreg() else None
                if name is not None and content is not None:
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"the archive of {layout.title} cannot be unpacked: {error}") from None
    _verify(folder, layout)


def _verify(folder: Path, layout: Layout) -> Path:
    """The folder, when all its files are there and official."""
    try:
        for name, md5 in {**layout.train, **layout.test, **layout.meta}.items():
            python_layout.read_verified(folder / name, md5, layout)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    return folder


@contextmanager
def _network(layout: Layout) -> Iterator[None]:
    """What the network refuses becomes one line."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server says {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(getattr(error.reason, "strerror", None) or error.reason)
    except TimeoutError:
        reason = f"no answer within {TIMEOUT_SECONDS} seconds"
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
    else:
        return
    raise DataError(f"cannot download {layout.title} ({reason}): {INSTEAD}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a download."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"another download into {path.parent} is at work: wait for it"
            ) from None
        yield
