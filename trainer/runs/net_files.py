"""Whether a net of the user's own file is the one that a run has trained. Torch-free.

The files' SHA-256 lie in the run's folder; whatever is another byte in them is a change. Runs of
earlier versions have none, and are not compared. Copies of the files lie in its ``net/``, for who
wants them back; they are never run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from trainer.config import RunConfig
from trainer.errors import ConfigError, RunError
from trainer.files.regular_file import open_regular
from trainer.files.whole_file import whole_file
from trainer.runs.origin import net_file
from trainer.runs.rundir import RunDir

RECORD_BYTES = 1 << 20
COPY_BYTES, COPIES = 1 << 20, 16
"""Of each file, and files, at most that are copied."""
Sources = Mapping[Path, bytes | None]
"""Files as ``model.user_file.sources`` gives them; what is ``None`` is read when it is needed."""
NOT_BUILT: Sources = {}


class NetFiles(msgspec.Struct, frozen=True):
    """SHA-256 of a net's files, in hexadecimal."""

    net: str
    """Of the file that the configuration names."""
    beside: dict[str, str] = {}
    """Of what it imports from its own folder, by path from there; known once it was built."""
    accepted: dict[str, str] = {}
    """Of changed files that the run may go on with, by path; until it does."""
    since: int = 0
    """Steps that were trained with other files before; checkpoints up to there are of those."""


def keep(run: RunDir, config: RunConfig, built: Sources = NOT_BUILT, *, step: int = 0) -> None:
    """Put down which files the run is queued with, or begins to train, and copy them.

    Args:
        run: its folder.
        config: of the run.
        built: the net's files as they were run when it was built: who edits one meanwhile changes
            it. Those that are not given are read now.
        step: at which a resumed run goes on.

    Raises:
        OSError: the folder cannot be written.
        RunError: as ``changed``, of a resumed run.
    """
    file = net_file(config)
    if file is None:
        return
    found = {
        str(path.relative_to(file.parent)): _digest(path, built) for path in {file: None, **built}
    }
    net = found.pop(file.name)
    if not net:
        return
    before = _kept(run) if step else None
    since = before.since if before is not None else 0
    if before is not None:
        was = {file.name: before.net, **before.beside}
        # one that was not put down may have been there
        if any(was.get(name, now) != now for name, now in [(file.name, net), *found.items()]):
            since = step
    _write(run, NetFiles(net, found, since=since))
    with suppress(OSError):  # without a copy the run is as good
        for name, expected in [(file.name, net), *found.items()][:COPIES]:
            _copy(file.parent / name, run.net_copy(name), expected, built)


def changed(run: RunDir, config: RunConfig, built: Sources = NOT_BUILT) -> str:
    """The first file that is another one than was put down; empty where there is none.

    Args:
        run: its folder.
        config: of the run.
        built: as ``check`` takes it.

    Raises:
        RunError: what was put down cannot be read.
    """
    found = _changed(run, config, built)
    return "" if found is None else str(found[0])


def check(run: RunDir, config: RunConfig, built: Sources = NOT_BUILT) -> None:
    """A net that is not the one that was trained has none of the run's figures.

    Args:
        run: its folder.
        config: of the run.
        built: as ``keep`` takes it; what is not given is compared as it is now.

    Raises:
        ConfigError: one of its files was changed since, or is gone, and that was not accepted.
        RunError: as ``changed``.
    """
    found = _changed(run, config, built, accepted=True)
    if found is None:
        return
    file, copy = found
    how = "changed" if os.path.exists(file) else "removed"  # noqa: PTH110
    lie = f"its files as they were lie in {copy.parent}; " if copy is not None else ""
    raise ConfigError(
        f"{file} was {how} since run {run.id} trained it: {lie}put it back as it was, train a new "
        "run, or go on with what is there: --changed-net with cifar-tui train --resume, or inspect"
    )


def check_weights(run: RunDir, config: RunConfig, step: int, name: str) -> None:
    """The files that a run went on with are not those that its earlier checkpoints are of.

    Args:
        run: its folder.
        config: of the run.
        step: at which the checkpoint was written.
        name: of the checkpoint.

    Raises:
        ConfigError: the checkpoint is of other files.
        RunError: as ``changed``.
    """
    if net_file(config) is None or (kept := _kept(run)) is None:
        return
    if kept.since > 0 and step <= kept.since:
        raise ConfigError(
            f"{name} was written at step {step:,}, and the net's files are those since step "
            f"{kept.since:,}: to look at its weights with them, give --changed-net with "
            "cifar-tui inspect"
        )


def accept(run: RunDir, config: RunConfig) -> None:
    """Let the run go on with its net's files as they are now.

    Raises:
        OSError: the folder cannot be written.
        RunError: as ``changed``.
    """
    file = net_file(config)
    if file is None or (kept := _kept(run)) is None or not changed(run, config):
        return
    found = {name: _digest(path) for name, path in _paths(file, kept)}
    _write(run, msgspec.structs.replace(kept, accepted=found))


def identity(run: RunDir, config: RunConfig) -> str:
    """Which files the net is made of now; empty where they are those that were put down first.

    Raises:
        RunError: as ``changed``.
    """
    file = net_file(config)
    if file is None or (kept := _kept(run)) is None:
        return ""
    if not kept.since and not changed(run, config):
        return ""
    return "\n".join(f"{name} {_digest(path)}" for name, path in _paths(file, kept))


def _changed(
    run: RunDir, config: RunConfig, built: Sources = NOT_BUILT, *, accepted: bool = False
) -> tuple[Path, Path | None] | None:
    """The first file that is another one than was put down, or ``accepted``; and its copy."""
    file = net_file(config)
    if file is None or (kept := _kept(run)) is None:
        return None
    expected = {file.name: kept.net, **kept.beside}
    safe = dict(_paths(file, kept))
    for name, wanted in expected.items():
        if name not in safe:  # the record may be that of others: no other files are read
            return file.parent / name, None
        now = _digest(safe[name], built)
        if now == wanted or (accepted and kept.accepted.get(name) == now):
            continue
        copy = run.net_copy(name)
        return safe[name], copy if _digest(copy) == wanted else None
    return None


def _paths(file: Path, kept: NetFiles) -> list[tuple[str, Path]]:
    """The files that were put down, by path from the net's folder; none that lies elsewhere."""
    found = [(file.name, file)]
    for name in kept.beside:
        path = file.parent / name
        if name != file.name and path.is_relative_to(file.parent) and ".." not in path.parts:
            found.append((name, path))
    return found


def _copy(source: Path, copy: Path, expected: str, built: Sources) -> None:
    """Copy a file, unless it is too long, or another one by now."""
    if (data := built.get(source)) is None:
        with open_regular(source) as file:
            data = file.read(COPY_BYTES + 1)
    if len(data) <= COPY_BYTES and hashlib.sha256(data).hexdigest() == expected:
        with whole_file(copy) as target:
            target.write(data)


def _write(run: RunDir, files: NetFiles) -> None:
    with whole_file(run.net) as record:
        record.write(msgspec.json.encode(files))


def _kept(run: RunDir) -> NetFiles | None:
    try:
        with open_regular(run.net) as record:
            return msgspec.json.decode(record.read(RECORD_BYTES), type=NetFiles)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError):
        raise RunError(
            f"{run.net} cannot be read, and tells whether the net's files were changed: without "
            "the file they are not compared"
        ) from None


def _digest(path: Path, built: Sources = NOT_BUILT) -> str:
    if (data := built.get(path)) is not None:
        return hashlib.sha256(data).hexdigest()
    with suppress(OSError, ValueError), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""
