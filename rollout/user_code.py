"""Code that a user brings, loaded by one line of text: rewards, problem sources, environments, objectives, recipes and
benchmarks.

The line (a *spec*) is ``my_file.py:name``, ``package.module:name``, or the name of an entry point that an installed
package declares. Every mistake is a ``UserCodeError`` of one line that names the user's file and line. Imports nothing
heavy. The user's code is trusted as much as the user: it runs in this process with all of its rights.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import spec_from_file_location
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import Any

from rollout.plain import one_line

GROUPS = ("k15.rewards", "k15.problems", "k15.recipes", "k15.objectives", "k15.environments", "k15.benchmarks")
"""Entry points that packages may declare, by what they are for."""

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_FORMS = "write FILE.py:NAME, package.module:NAME, or the name of an entry point"
_LOADING = threading.RLock()


class UserCodeError(ValueError):
    """User code cannot be found, or failed; one line: file and line, what, what to do."""


@dataclass(frozen=True)
class Spec:
    """The parts of a spec."""

    file: Path | None = None
    """The file, absolute; ``None`` for modules and entry points."""
    module: str = ""
    """The dotted module; empty for files and entry points."""
    name: str = ""
    """The name in file or module (empty: the module itself), or that of the entry point."""

    @classmethod
    def parse(cls, spec: str) -> Spec:
        """Parse a spec. Raises ``UserCodeError`` when it has none of the three forms."""
        path, colon, name = spec.rpartition(":")
        if spec.endswith(".py"):
            path, name = spec, ""
        if path.endswith(".py"):
            if (colon and not name and path != spec) or (name and not name.isidentifier()):
                raise UserCodeError(f"'{spec}': {name!r} is not the name of anything in Python; {_FORMS}")
            return cls(file=Path(path).expanduser().absolute(), name=name)
        if colon and _MODULE.fullmatch(path) and name.isidentifier():
            return cls(module=path, name=name)
        if not colon and spec and "/" not in spec and not spec.isspace():
            return cls(name=spec)
        raise UserCodeError(f"'{spec}' is no user code; {_FORMS}")

    def __str__(self) -> str:
        home = self.module or (str(self.file) if self.file else "")
        return f"{home}:{self.name}" if home and self.name else home or self.name


def absolute(spec: str) -> str:
    """Return ``spec`` with the path of its file made absolute, as configurations record it; loads nothing."""
    return str(Spec.parse(spec))


def is_file(spec: str) -> bool:
    """Return whether ``spec`` names a Python file, with or without a name in it."""
    return spec.endswith(".py") or spec.rpartition(":")[0].endswith(".py")


def load(spec: str, group: str) -> Any:
    """Return what ``spec`` names: a function, a class, any object; the module itself for ``my_file.py`` without a name.

    ``group`` is the group of entry points in which a plain name is looked up, one of ``GROUPS``. Modules are found as
    Python finds them, and in the working directory; a file may import its neighbours. A file is run once, and again
    when its text has changed. Raises ``UserCodeError``.
    """
    found = Spec.parse(spec)
    if not found.file and not found.module:
        return _from_entry_point(found.name, group)
    with _LOADING:
        module = _run_file(found.file) if found.file else _import_module(found.module)
    if not found.name:
        return module
    try:
        return getattr(module, found.name)
    except AttributeError:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise UserCodeError(f"{found.file or found.module}: has no {found.name!r}{_near(found.name, names)}") from None


def names_of(group: str) -> tuple[str, ...]:
    """Return the names of the entry points of ``group`` that installed packages declare, sorted; loads none of them."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def source_of(spec: str, loaded: Any = None) -> tuple[str, bytes]:
    """Return the file that ``spec`` names and its text, to tell later whether it has changed; ``("", b"")`` when
    unknown.

    ``loaded`` is what ``load`` gave; where an entry point leads is known from it alone.
    """
    file = Spec.parse(spec).file
    if file is None:
        module = sys.modules.get(getattr(loaded, "__module__", None) or type(loaded).__module__)
        found = getattr(loaded if isinstance(loaded, ModuleType) else module, "__file__", None)
        file = Path(found) if found else None
    try:
        return (str(file), file.read_bytes()) if file else ("", b"")
    except OSError:
        return str(file), b""


def digest(spec: str, group: str) -> str:
    """Return the SHA-256 of the text of the file that ``spec`` leads to, but not of what that imports; empty when there
    is none.

    Raises ``UserCodeError``.
    """
    _, text = source_of(spec, load(spec, group))
    return hashlib.sha256(text).hexdigest() if text else ""


def explain(error: BaseException, file: str) -> str:
    """Return an exception of user code in one line: ``my_file.py:12: ZeroDivisionError: division by zero``.

    The line is the innermost one of ``file`` that the exception came through, so that an error inside of a library
    leads to the call of it.
    """
    if isinstance(error, UserCodeError):
        return str(error)
    what = named(error)
    if isinstance(error, SyntaxError) and str(error.filename).endswith(".py"):  # not of a text that it parsed
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    for one in (error, error.__cause__, error.__context__):  # Python itself raises some in the place of others
        trace = one.__traceback__ if one else None
        if found := [line for frame, line in walk_tb(trace) if frame.f_code.co_filename == file]:
            return f"{file}:{found[-1]}: {what}"
    return f"{file}: {what}"


def named(error: BaseException) -> str:
    """Return an exception's type and message in one line that steers no terminal."""
    try:
        said = one_line(str(error), 300)
    except Exception:  # noqa: BLE001  a user's exception may not even tell its message
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _run_file(file: Path) -> ModuleType:
    """Return the module of a file. Compiled from its text, since Python's cached byte code can be older by up to a
    second.
    """
    try:
        source = file.read_bytes()
    except FileNotFoundError:
        neighbours = [path.name for path in sorted(file.parent.glob("*.py"))]
        raise UserCodeError(f"{file}: no such file{_near(file.name, neighbours)}") from None
    except OSError as error:
        raise UserCodeError(f"{file}: {error.strerror or error}") from error
    digest = hashlib.sha256(f"{file}\n".encode() + source).hexdigest()[:12]
    name = f"k15_user_{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__, module.__spec__ = str(file), spec_from_file_location(name, file)
    _search(file.parent)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserCodeError(f"{explain(error, str(file))} (while it was loaded)") from error
    return module


def _import_module(name: str) -> ModuleType:
    _search(Path.cwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise UserCodeError(
                f"module '{name}' not found: neither installed nor in {Path.cwd()}; for a file write FILE.py:NAME"
            ) from error
        raise UserCodeError(f"{_explain_import(error, name)} (while it was loaded)") from error
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"{_explain_import(error, name)} (while it was loaded)") from error


def _explain_import(error: BaseException, module: str) -> str:
    """Return the innermost line that the exception came through, leaving out Python's own."""
    files = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    files = [file for file in files if file not in (__file__, importlib.__file__) and not file.startswith("<frozen")]
    return explain(error, files[-1] if files else module)


def _from_entry_point(name: str, group: str) -> Any:
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=group)}
    if name not in points:
        there = f"there are: {', '.join(points)}" if points else "no installed package declares any"
        near = _near(name, points) or f"; {there}"
        raise UserCodeError(f"no entry point '{name}' in the group {group}{near}; or {_FORMS.partition(',')[0]}")
    with _LOADING:
        try:
            return points[name].load()
        except (Exception, SystemExit) as error:
            raise UserCodeError(
                f"{_explain_import(error, points[name].module)} (while entry point '{name}' was loaded)"
            ) from error


def _search(folder: Path) -> None:
    """Let ``import`` look into ``folder`` too, after all other places: nothing there hides what is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [*names], n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
