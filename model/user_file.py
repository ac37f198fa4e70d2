"""Nets of the user's own files: run as they are now, with what they import from their folder.

Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import symtable
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from model.errors import ModelError, clean, message

_PREFIX = "_user_model_"
"""Of the names of modules that are files of the user."""
_OURS = ("model", "trainer", "tui")
_beside: set[str] = set()
"""Modules that the last net has imported from its file's own folder."""
_before: set[str] = set()
"""Modules that were there before it."""
_sources: dict[Path, bytes] = {}
"""Its file and those of such modules, as they were run."""
_folder: Path | None = None
_SOURCE_BYTES = 1 << 18
"""Of a file that is looked at while its name is typed."""
_DYNAMIC = re.compile(
    rb"import[\s\\]*\*|__getattr__|(?<!\.)\b(builtins|eval|exec|globals|locals|setattr|sys|vars)\b"
)
"""By which a module may have names that are not written in it as names."""


def is_file(spec: str) -> bool:
    """Whether a model's name means a file of the user: ``file.py:Class``."""
    return spec.endswith(".py") or ".py:" in spec


def split(spec: str) -> tuple[str, str]:
    """File and class of a ``file.py:Class``; whether they are there is not looked at.

    Raises:
        ModelError: no class is named.
    """
    file, _, name = spec.rpartition(":")
    if spec.endswith(".py") or not name:
        path = clean(file if spec.endswith(":") else spec)
        raise ModelError(f"{path}: name the class as well, {path}:Class")
    return file, name


def check_class(spec: str) -> None:
    """Look for the class of a ``file.py:Class`` without running the file; what cannot be told so,
    as after ``from … import *``, passes.

    Raises:
        ModelError: no such file, it is no Python, or it has no such class.
    """
    file, name = split(spec)
    path, label = _found(file), clean(file)
    try:
        with path.open("rb") as opened:
            source = opened.read(_SOURCE_BYTES + 1)
        if len(source) > _SOURCE_BYTES or _DYNAMIC.search(source):
            return
        with warnings.catch_warnings(action="ignore"):  # of a backslash, say: told when it is run
            table = symtable.symtable(importlib.util.decode_source(source), str(path), "exec")
    except SyntaxError as error:
        raise _no_python(error, path, label) from None
    except (OSError, ValueError, RecursionError, MemoryError):  # the run will tell
        return
    if name not in table.get_identifiers():
        kinds = ((part.get_name(), part.get_type()) for part in table.get_children())
        raise _no_class(label, name, [own for own, kind in kinds if kind == "class"])


@contextmanager
def loaded(spec: str) -> Iterator[Callable[..., Any]]:
    """Run the file of a ``file.py:Class`` and give its class (or function), as ``importable``.

    Raises:
        ModelError: no such file, it fails, or it has no such class.
    """
    path = _found(split(spec)[0])
    _begin(path.parent)
    with importable(spec):
        yield _load(spec, path)


def _found(file: str) -> Path:
    """The user's file, without links."""
    try:
        path = Path(file).expanduser()
        there = path.is_file()
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"cannot look at {clean(file)}: {_reason(error)}") from None
    if not there:
        shown = file.encode(errors="replace").decode()  # a name need not be UTF-8
        raise ModelError(f"no such file: {clean(shown)}")
    return path.resolve()


def _load(spec: str, path: Path) -> Callable[..., Any]:
    """The class (or function) of ``file.py:Class``."""
    file, name = split(spec)
    module = _import(path, clean(file))
    found = getattr(module, name, None)
    if not callable(found):
        own = [
            n
            for n, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        raise _no_class(clean(file), name, own)
    make: Callable[..., Any] = found
    return make


def _no_class(label: str, name: str, own: Sequence[str]) -> ModelError:
    have = f"it has {', '.join(own)}" if own else "it has no classes"
    return ModelError(f"{label} has no class {clean(name)!r}: {have}")


def _no_python(error: SyntaxError, path: Path, label: str) -> ModelError:
    where = f"{label}, line {error.lineno}" if error.filename == str(path) else label
    return ModelError(f"{where}: syntax error: {clean(error.msg)}")


def _import(path: Path, label: str) -> Any:
    """Execute the user's file as a module with a private name; its folder is importable."""
    name = f"{_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    loader = importlib.util.spec_from_file_location(name, path)
    if loader is None or loader.loader is None:
        raise ModelError(f"{label} cannot be imported")
    module = importlib.util.module_from_spec(loader)
    sys.modules[name] = module  # dataclasses and copy look their module up there
    try:
        # compiled here, not by the loader: its cache goes by the time stamp, whole seconds
        # and size, and would miss a quick edit
        _sources[path] = source = path.read_bytes()
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except SyntaxError as error:
        raise _no_python(error, path, label) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, and panics of extensions written in Rust
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__)]
        files = [f.filename for f in traceback.extract_tb(error.__traceback__)]
        here = [line for line, file in zip(lines, files, strict=True) if file == str(path)]
        where = f"{label}, line {here[-1]}" if here else label
        raise ModelError(f"{where}: {_reason(error)}") from None
    return module


def sources() -> dict[Path, bytes | None]:
    """The files of the user's net that was built last: its own, and what it has imported from the
    folder of its own. Each as it was run; ``None`` of one that is no Python source.
    """
    modules = (sys.modules.get(name) for name in sorted(_beside))
    files = (getattr(module, "__file__", None) for module in modules)
    return {**dict.fromkeys(Path(file) for file in files if file), **_sources}


@contextmanager
def importable(spec: str) -> Iterator[None]:
    """Let the user's net that was built last import from its file's folder, as it does while it is
    built: what it imports when it is first run is its own as well. Nothing for a built-in net.
    """
    if _folder is None or not is_file(spec):
        yield
        return
    finder, folder = _Finder(), str(_folder)
    # found by us if any way, but a net may look at the path itself
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if folder in sys.path:
            sys.path.remove(folder)
        _collect()


def _begin(folder: Path) -> None:
    """Forget the net before: its modules are those of another folder, or as before an edit."""
    global _folder
    if _folder is not None:
        _collect()
    for name in _beside:
        sys.modules.pop(name, None)
    _beside.clear()
    _sources.clear()
    _before.clear()
    _before.update(sys.modules)
    _folder = folder


def _collect() -> None:
    new = set(sys.modules) - _before - _beside
    _beside.update(name for name in new if _lies_beside(name))
    _before.update(new - _beside)


class _Finder(MetaPathFinder):
    """Python's own, for modules beside the user's file, which are read anew and kept as read."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None and fullname in (*_OURS, *sys.builtin_module_names):
            return None
        found = PathFinder.find_spec(fullname, [str(_folder)] if path is None else path, target)
        if found is None or not _is_own(found.origin):
            return None  # packages without an __init__ are left to Python, their modules are not
        if isinstance(found.loader, SourceFileLoader):
            found.loader = _Loader(fullname, found.loader.path)
        return found


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        _sources[Path(self.path)] = source = self.get_data(self.path)
        return self.source_to_code(source, self.path)


def _lies_beside(module: str) -> bool:
    """Whether a module is the user's own."""
    if module.partition(".")[0] in _OURS or module.startswith(_PREFIX):
        return False
    found = sys.modules.get(module)
    folders = getattr(found, "__path__", ())  # a package without an __init__ has no file
    return _is_own(getattr(found, "__file__", None) or next(iter(folders), None))


def _is_own(file: str | None) -> bool:
    """Whether a file lies beside the user's, and is none of an installed package."""
    if not file or _folder is None or "site-packages" in Path(file).parts:
        return False
    library = Path(os.__file__).parent  # Python's own, which may lie below the home directory
    return Path(file).is_relative_to(_folder) and not Path(file).is_relative_to(library)


@contextmanager
def told_as(what: str) -> Iterator[None]:
    """Whatever the user's code raises, as one line: ``what: reason``. Ctrl-C stays what it is.

    Raises:
        ModelError: it has raised something.
    """
    try:
        yield
    except (KeyboardInterrupt, ModelError):
        raise
    except BaseException as error:  # SystemExit, and panics of extensions written in Rust
        raise ModelError(f"{what}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """An exception as one line, with its place in the user's own files if it came from there."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__")
        if isinstance(module, str) and (module.startswith(_PREFIX) or module in _beside):
            place = f"{clean(Path(frame.f_code.co_filename).name)}, line {line}: "
    return place + _reason(error)


def _reason(error: BaseException) -> str:
    """An exception as one line."""
    if helper := _hidden_helper(error):
        return f"a helper cannot be called {helper}: this program has that name, rename it"
    text = clean((message(error).splitlines() or [""])[0])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _hidden_helper(error: BaseException) -> str:
    """The file beside the user's that was meant where a package of ours was imported."""
    # of "from model import Block" the former, of "import model; model.Block" the latter
    module = error.name if isinstance(error, ImportError) else None
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        module = error.obj.__name__
    name = (module or "").partition(".")[0]
    if name not in _OURS or _folder is None:
        return ""
    for file in (_folder / f"{name}.py", _folder / name / "__init__.py"):
        if file.is_file() and file != Path(__file__).parents[1] / name / "__init__.py":
            return str(file.relative_to(_folder))
    return ""
