"""The matrix from control to source, code, tests and evidence, and what is wrong with it.

Code and tests are found by reading the source files (:mod:`ast`); nothing of them is imported or run, so a test counts
by what it carries: ``@pytest.mark.control("ID")`` on a function or a class, or in a module's ``pytestmark``. That it
passes is shown by the run of the tests, which has the same marker.
"""

import ast
import functools
import importlib.util
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from compliance.controls import Control, Status, catalogue
from shared.errors import RecordError, UsageError

MARKER: Final = "control"
_NOT_RUN: Final = frozenset({"skip", "xfail", "live"})
"""Markers of tests that ``make test`` does not run, or whose failure it forgives: they carry no enforced control."""


@dataclass(frozen=True)
class Carried:
    """A test that carries ids of controls.

    Attributes:
        node: Its pytest node id, from the folder above that of the tests.
        ids: What it carries.
        counts: Whether ``make test`` runs it, so that it can carry an enforced control.
    """

    node: str
    ids: tuple[str, ...]
    counts: bool


@dataclass(frozen=True)
class Row:
    """A control with what was found of it.

    Attributes:
        control: The control.
        tests: Node ids of the tests that carry it; None where no tests were looked for.
        absent: Those of its code locations that are not there.
    """

    control: Control
    tests: tuple[str, ...] | None
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """All controls with their code and tests.

    Attributes:
        rows: One for each control.
        tests: The folder of tests that was read; None where there was none.
        faults: What is wrong, one line each.
    """

    rows: tuple[Row, ...]
    tests: Path | None
    faults: tuple[str, ...]

    def require_whole(self) -> None:
        """See that nothing is wrong.

        Raises:
            RecordError: An enforced control lacks its code or a test, or a test carries an id that is none.
        """
        if self.faults:
            more = f", and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
            raise RecordError(
                f"the matrix of controls does not hold: {self.faults[0]}{more}",
                hint="mark a test with @pytest.mark.control, or lower the status and say what is missing",
            )

    def to_json(self) -> dict[str, Any]:
        """The matrix for programs."""
        return {
            "version": 1,
            "tests": None if self.tests is None else self.tests.name,
            "controls": [
                {**asdict(row.control), "tests": row.tests, "code_not_found": row.absent} for row in self.rows
            ],
            "faults": list(self.faults),
        }


def matrix(tests: Path | None = None, controls: Sequence[Control] | None = None) -> Matrix:
    """The matrix of this installation.

    Args:
        tests: The folder of the tests; where None, the one beside the packages if there is one, as in a source tree.
        controls: Other ones than the catalogue's; for tests.

    Raises:
        UsageError: The folder of tests is not there, or a file in it cannot be read as Python.
        RecordError: The catalogue is damaged.
    """
    folder = tests if tests is not None else _beside()
    found = None if folder is None else tuple(carried(folder))
    known = catalogue() if controls is None else tuple(controls)
    rows, faults = [], []
    for control in known:
        nodes = None if found is None else tuple(one.node for one in found if control.id in one.ids)
        absent = tuple(place for place in control.code if not exists(place))
        rows.append(Row(control, nodes, absent))
        faults += [f"{control.id}: there is no {place}" for place in absent]
        enforced = found is not None and control.status is Status.ENFORCED
        if enforced and not any(control.id in one.ids and one.counts for one in found or ()):
            faults.append(f"{control.id} is enforced, and no test that is run carries it")
    ids = {control.id for control in known}
    for one in found or ():
        faults += [f"{one.node} carries {name}, which is no control" for name in one.ids if name not in ids]
    return Matrix(tuple(rows), folder, tuple(faults))


def _beside() -> Path | None:
    folder = Path(__file__).resolve().parents[1] / "tests"
    return folder if folder.is_dir() else None


# --- tests ------------------------------------------------------------------------------------------------------------


def carried(folder: Path) -> Iterator[Carried]:
    """The tests below ``folder`` that carry an id, in the order of their files.

    Raises:
        UsageError: It is no folder, a file is no Python, or a marker has no plain ids.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder of tests {folder}", hint="name that of the source tree with --tests")
    root = folder.resolve()
    for path in sorted(root.rglob("test_*.py")):
        name = f"{root.name}/{path.relative_to(root).as_posix()}"
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError) as error:
            raise UsageError(f"cannot read {path} as Python", hint="mend it, or name another folder") from error
        yield from _inside(tree.body, name, _of_module(tree, name), name)


def _inside(body: Sequence[ast.stmt], prefix: str, outer: "_Marks", file: str) -> Iterator[Carried]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            marks = outer.joined(_marks(node.decorator_list, file))
            yield from _inside(node.body, f"{prefix}::{node.name}", marks, file)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            marks = outer.joined(_marks(node.decorator_list, file))
            if marks.ids:
                yield Carried(f"{prefix}::{node.name}", tuple(sorted(set(marks.ids))), not marks.names & _NOT_RUN)


@dataclass(frozen=True)
class _Marks:
    ids: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    def joined(self, other: "_Marks") -> "_Marks":
        return _Marks(self.ids + other.ids, self.names | other.names)


def _of_module(tree: ast.Module, file: str) -> _Marks:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == ["pytestmark"]:
            found = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            return _marks(found, file)
    return _Marks()


def _marks(expressions: Sequence[ast.expr], file: str) -> _Marks:
    ids: list[str] = []
    names: set[str] = set()
    for one in expressions:
        call = one if isinstance(one, ast.Call) else None
        words = ast.unparse(call.func if call else one).split(".")
        if words[:2] != ["pytest", "mark"]:
            continue
        names.add(words[2])
        if words[2] == MARKER:
            ids += _ids(call, file, one.lineno)
    return _Marks(tuple(ids), frozenset(names))


def _ids(call: ast.Call | None, file: str, line: int) -> list[str]:
    values = [one.value for one in call.args if isinstance(one, ast.Constant)] if call else []
    ids = [value for value in values if isinstance(value, str)]
    if not call or call.keywords or not ids or len(ids) != len(call.args):
        raise UsageError(
            f"{file}, line {line}: a control's marker has ids in quotes and nothing else",
            hint='write @pytest.mark.control("HIPAA-164.312-b-audit")',
        )
    return ids


# --- code -------------------------------------------------------------------------------------------------------------


def exists(place: str) -> bool:
    """Whether ``module`` or ``module:qualname`` is there; True where the whole room is not installed here.

    A coordinator has no code of hospitals, and says nothing about it.
    """
    module, _, qualname = place.partition(":")
    room, *parts = module.split(".")
    found = importlib.util.find_spec(room)  # of a room above this one only the place is asked, nothing is imported
    roots = [Path(one) for one in (found.submodule_search_locations if found else None) or ()]
    if not roots:
        return True
    names = _names(next((path for root in roots for path in _files(root, parts) if path.is_file()), None))
    return names is not None and (not qualname or qualname in names)


def _files(root: Path, parts: Sequence[str]) -> tuple[Path, Path]:
    inner = root.joinpath(*parts)
    return inner.with_suffix(".py"), inner / "__init__.py"


@functools.cache
def _names(path: Path | None) -> frozenset[str] | None:
    """What a file defines, methods as ``Class.method``; None where there is no file."""
    if path is None:
        return None
    return frozenset(_defined(ast.parse(path.read_text(encoding="utf-8")).body))


def _defined(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from _defined(node.body, f"{prefix}{node.name}.")


# --- in short ---------------------------------------------------------------------------------------------------------


def counts(rows: Sequence[Row]) -> Mapping[Status, int]:
    """How many controls have each status."""
    found: defaultdict[Status, int] = defaultdict(int)
    for row in rows:
        found[row.control.status] += 1
    return {status: found[status] for status in Status}
