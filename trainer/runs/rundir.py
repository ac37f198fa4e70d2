"""A run's folder: its name, its files, its lock. Torch-free.

RUNS/20261123-143005-dws-late-3f9c/
    events.jsonl   the run log            config.toml   what was asked for
    lock           held while it trains   control       commands to the trainer
    checkpoints/   last.pt, best.pt       predictions/  one .npz per evaluation
    cache/         what can be computed again
    net.json       checksums of the user's own net
    net/           copies of its files, which are never run
    on-end.log     what the command at the end printed
    traceback.txt  of the last failure    ranks.log     what torchrun and the ranks had to say
    launch         which launch of torchrun began it
    .reserve, .reserve-last               room on the disk, while it trains
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG

import msgspec
import platformdirs

from trainer.errors import RunError
from trainer.files.paths import absolute

LATELY_SECONDS = 600
"""A log that was written to so lately is that of a living run, where nothing else tells."""
STAMP = "%Y%m%d-%H%M%S"
AHEAD_SECONDS = 15 * 3600
"""More than the time zones are apart from UTC."""
ID = re.compile(r"\d{8}-\d{6}-[a-z0-9][a-z0-9-]{0,39}-[0-9a-f]{4}")
ALONE_SECONDS = 2.0
"""Until then one waits for another who makes a run in the same directory: it takes milliseconds."""
CONTROL_ROOM = b" " * 255 + b"\n"
"""More than file systems keep beside a file's name: a block of the disk is taken for it."""


def default_runs_dir() -> Path:
    """``CIFAR_TUI_RUNS``, or ``runs`` in the user's data directory; an absolute path.

    Raises:
        ConfigError: the variable names the home of nobody.
    """
    named = os.environ.get("CIFAR_TUI_RUNS")
    return absolute(named) if named else Path(platformdirs.user_data_dir("cifar-tui")) / "runs"


DELETED = "its folder was deleted: nothing of it could be kept"
"""Why such a run has failed."""


class NoLocksError(RunError):
    """A run on a file system without locks: nobody can train it."""


class RunDir(msgspec.Struct, frozen=True):
    """Paths of one run. Making one reads and writes nothing."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name: unique, sortable by time of creation, which it tells in UTC."""
        return self.path.name

    @property
    def own(self) -> tuple[Path, ...]:
        """All files and folders that a trainer may write, whether they are there or not."""
        kept = (self.reserve, self.last_reserve, self.traceback)
        return (*self._folders, *kept, *self._before_it_begins)

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def _predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def _cache(self) -> Path:
        return self.path / "cache"

    @property
    def _net_copies(self) -> Path:
        return self.path / "net"

    @property
    def _folders(self) -> tuple[Path, ...]:
        return self._checkpoints, self._predictions, self._cache, self._net_copies

    @property
    def _before_it_begins(self) -> tuple[Path, ...]:
        """The files of a run that has not begun."""
        asked = (self.log, self.config, self.net, self.control, self.lock)
        return (*asked, self.on_end_log, self.launch, self.ranks_log)

    @property
    def log(self) -> Path:
        """The run log."""
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.path / "lock"

    @property
    def control(self) -> Path:
        """Commands to the trainer."""
        return self.path / "control"

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.path / "config.toml"

    @property
    def net(self) -> Path:
        """Which files its net is, where it is the user's own: see ``trainer/runs/net_files.py``."""
        return self.path / "net.json"

    def net_copy(self, name: str) -> Path:
        """Where a copy of one of these files goes, by path from the net's folder."""
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        # no two have one name: a/b.py is a.b.py, and a.b.py another
        escaped = stem.replace("%", "%25").replace(".", "%2E").replace(os.sep, ".")
        return self._net_copies / f"{escaped}{suffix}"

    @property
    def launch(self) -> Path:
        """Which launch of torchrun began it: a restart goes on in the same folder."""
        return self.path / "launch"

    @property
    def ranks_log(self) -> Path:
        """What torchrun and the ranks wrote to their standard error."""
        return self.path / "ranks.log"

    @property
    def on_end_log(self) -> Path:
        """What the command of ``--on-end`` printed."""
        return self.path / "on-end.log"

    @property
    def traceback(self) -> Path:
        """Where in the code it failed last, unless the error said all."""
        return self.path / "traceback.txt"

    @property
    def reserve(self) -> Path:
        """Room on the disk for the log of a run that trains, given back when the disk is full."""
        return self.path / ".reserve"

    @property
    def last_reserve(self) -> Path:
        """As ``reserve``, kept for the run's end."""
        return self.path / ".reserve-last"

    def checkpoint(self, role: str) -> Path:
        """The checkpoint ``last`` or ``best``."""
        return self._checkpoints / f"{role}.pt"

    def has_checkpoint(self, role: str) -> bool:
        """Whether the checkpoint is there, as far as this user may see."""
        # not Path.is_file: until Python 3.14 it raises where a folder may not be entered
        return os.path.isfile(self.checkpoint(role))  # noqa: PTH113

    def predictions(self, epoch: int, variant: str) -> Path:
        """Where an evaluation's predictions go."""
        return self._predictions / f"epoch-{epoch:04d}-{variant}.npz"

    def features(self, role: str) -> Path:
        """Where the features of the training images go, of the checkpoint ``last`` or ``best``."""
        return self._cache / f"features-{role}.npz"

    @property
    def folded(self) -> Path:
        """What a long log came to, see ``trainer/runs/folded.py``."""
        return self._cache / "folded.msgpack"

    def inside(self, relative: str) -> Path:
        """The path of a file that the log names.

        Raises:
            RunError: it would lie outside the run's folder; logs of others are not trusted.
        """
        try:
            target = (self.path / relative).resolve()
            inside = target.is_relative_to(self.path.resolve())
        except (OSError, ValueError, RuntimeError):  # a name no file can have, a loop of links
            inside = False
        if not inside:
            raise RunError(f"run {self.id}: the log names a file outside the run's folder")
        return target

    def discard(self) -> None:
        """Remove the folder of a run that never began; whatever else lies in it stays.

        Where others can know of it: see ``trainer.lifecycle.submit.withdraw``.
        """
        with suppress(OSError):
            for file in self._before_it_begins:
                file.unlink(missing_ok=True)
            if self._net_copies.is_dir() and not self._net_copies.is_symlink():
                for copy in self._net_copies.iterdir():
                    copy.unlink()
                self._net_copies.rmdir()
            self.path.rmdir()

    def refuse_links(self) -> None:
        """Before anything is written: what was copied from others may lead elsewhere, and a pipe
        keeps whoever opens it waiting for ever.

        Raises:
            RunError: one of the run's own files is a link, or neither a file nor a folder.
        """
        for file in self.own:
            try:
                mode = file.lstat().st_mode
            except OSError:  # it is not there, or told when it is opened
                continue
            if S_ISREG(mode) or S_ISDIR(mode):
                continue
            what = "a link to another place" if S_ISLNK(mode) else "no file"
            raise RunError(f"run {self.id}: {file.name} is {what}: it is not written to")

    def sweep(self) -> None:
        """Remove half-written files of a trainer that was killed; the caller holds the lock."""
        for folder in (self.path, *self._folders):
            with suppress(OSError):
                for partial in folder.glob("*.partial"):
                    partial.unlink(missing_ok=True)

    def deleted(self, handle: int) -> bool:
        """Whether the folder has gone for certain, and not elsewhere.

        Args:
            handle: a file of it that is open: in a folder that was moved it keeps its name.
        """
        try:
            self.path.stat()
        except FileNotFoundError:
            with suppress(OSError):
                return os.fstat(handle).st_nlink == 0
        except OSError:  # a network that fails for a while
            pass
        return False

    def is_locked(self) -> bool:
        """Whether a living process trains this run or keeps it queued."""
        try:
            handle = os.open(self.lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError:  # another user's, who alone may look
            return self._changed_lately()
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return self._changed_lately()
        finally:
            os.close(handle)
        return False

    def _changed_lately(self) -> bool:
        with suppress(OSError):
            return abs(time.time() - self.log.stat().st_mtime) < LATELY_SECONDS
        return False

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the run's lock; yields its descriptor, which a child may inherit and so hold too.

        Raises:
            RunError: another process holds it, the run's folder cannot be written, or lies where
                there are no locks.
        """
        self.refuse_links()
        try:
            handle = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunError(f"cannot lock run {self.id}: {error.strerror}") from None
        try:
            _acquire(handle, self.id)
            self._own_control()
            yield handle
        finally:
            os.close(handle)

    def _own_control(self) -> None:
        """Have a control file that is ours: in a folder of many whoever is the first to send a
        command would make it, for nobody but himself to read and write. It begins with a blank
        line, so that there is room for commands in its block when the disk is full.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        for _ in range(2):
            try:
                handle = os.open(self.control, flags, 0o600)
                try:
                    if not os.fstat(handle).st_size:
                        os.write(handle, CONTROL_ROOM)
                finally:
                    os.close(handle)
                return
            except PermissionError:  # one of another user: he has no say here
                with suppress(OSError):
                    self.control.unlink()
            except OSError:  # a full disk: it is made when it is needed
                return


def _acquire(handle: int, run: str) -> None:
    # a reader that only looks holds the lock for microseconds: try again before giving up
    for attempt in range(20):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt < 19:
                time.sleep(0.05)
        except OSError as error:
            raise NoLocksError(
                f"cannot lock run {run}: {error.strerror}: this file system has no locks, choose "
                "another with --runs-dir"
            ) from None
    raise RunError(f"run {run} is being trained by another process")


def slug(text: str) -> str:
    """A part of a folder's name made of any text: lower case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "run"


def create(runs_dir: Path, label: str) -> RunDir:
    """Make a new run's folder, whose id comes after those of all before it.

    Raises:
        RunError: the runs directory cannot be written.
    """
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with _alone(runs_dir):
            return _create(runs_dir, label)
    except FileExistsError:
        raise RunError(f"{runs_dir} is no directory: choose one with --runs-dir") from None
    except OSError as error:
        raise RunError(
            f"cannot write to the runs directory {runs_dir}: {error.strerror}; "
            "choose another with --runs-dir"
        ) from None


def _create(runs_dir: Path, label: str) -> RunDir:
    import secrets  # the app's first paint need not wait for it

    stamp = _stamp(runs_dir)
    for _ in range(100):
        run = RunDir(runs_dir / f"{stamp}-{slug(label)}-{secrets.token_hex(2)}")
        with suppress(FileExistsError):
            run.path.mkdir()
            return run
    raise RunError(f"cannot find a free name for a run in {runs_dir}")


@contextmanager
def _alone(runs_dir: Path) -> Iterator[None]:
    """Make runs in a directory one after another: two at once would have the same second.

    Where that cannot be had (a file system that locks no directories, one who does not let go) they
    still get two folders.
    """
    handle = -1
    try:
        with suppress(OSError):
            handle = os.open(runs_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            until = time.monotonic() + ALONE_SECONDS
            while not _lock(handle) and time.monotonic() < until:
                time.sleep(0.002)
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Whether the lock was free, and is had now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stamp(runs_dir: Path) -> str:
    """The time in UTC, or what comes next to the newest run: ids are in the order of creation.

    Local time goes back an hour in autumn. Earlier versions took it, so there may be runs that are
    hours ahead; what is further ahead was named by a clock that was wrong.
    """
    import calendar  # nor for this

    stamp, ahead = (time.strftime(STAMP, time.gmtime(time.time() + s)) for s in (0, AHEAD_SECONDS))
    with suppress(RunError):  # told when it is written
        for run in scan(runs_dir):  # newest first
            before = run.id[: len(stamp)]
            if before < stamp:
                break
            with suppress(ValueError):  # no time
                if before < ahead:
                    after = calendar.timegm(time.strptime(before, STAMP)) + 1
                    return time.strftime(STAMP, time.gmtime(after))
    return stamp


def scan(runs_dir: Path) -> list[RunDir]:
    """The runs in a directory, newest first; a missing directory has none.

    Raises:
        RunError: the directory cannot be read.
    """
    try:
        with os.scandir(runs_dir) as entries:
            names = [e.name for e in entries if ID.fullmatch(e.name) and _is_folder(e)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"cannot read the runs directory {runs_dir}: {error.strerror}") from None
    return [RunDir(runs_dir / name) for name in sorted(names, reverse=True)]


def made_at(run: str) -> float:
    """When a run of this id was made, seconds since 1970; 0 where its digits are no time."""
    from datetime import UTC, datetime  # in a tenth of strptime's time

    with suppress(ValueError):
        return datetime.fromisoformat(f"{run[:8]}T{run[9:15]}").replace(tzinfo=UTC).timestamp()
    return 0.0


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder; a link that leads to itself, or where nobody may look, is none."""
    with suppress(OSError):
        return entry.is_dir()
    return False


def option(runs_dir: Path) -> str:
    """What a command needs behind it to find this runs directory; empty: nothing."""
    return "" if runs_dir == default_runs_dir() else f" --runs-dir {shlex.quote(str(runs_dir))}"


def find(runs_dir: Path, query: str) -> RunDir:
    """The run of an id, of a part of an id that only one run has, or ``last``.

    Raises:
        RunError: none or several fit.
    """
    runs = scan(runs_dir)
    if query == "last" and runs:
        return runs[0]
    exact = [run for run in runs if run.id == query]
    fits = exact or [run for run in runs if query and query in run.id]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise RunError(
            f"no run {query!r} in {runs_dir}: 'cifar-tui runs{option(runs_dir)}' lists them"
        )
    some = ", ".join(run.id for run in fits[:3])
    raise RunError(f"{len(fits)} runs fit {query!r} ({some}, …): write more of the id")
