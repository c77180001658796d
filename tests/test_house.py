"""The rules of the house that a linter does not know."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).parents[1]
ROOMS = ("shared", "client", "server", "compliance", "simulation")
ADAPTERS = {
    "client/flower_messages.py",
    "client/flower_node.py",
    "server/flower_line.py",
    "server/flower_link.py",
    "simulation/local_grid.py",
    "simulation/ray_engine.py",
}
FLOWER = ("flwr.app", "flwr.serverapp", "flwr.clientapp")
WITHOUT_TORCH = (
    *("shared/errors.py", "shared/files.py", "shared/charter.py", "shared/wire.py", "shared/vector.py"),
    "shared/imaging/public.py",
)


def modules() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((HOUSE / room).rglob("*.py")):
            yield str(path.relative_to(HOUSE)), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_flowers_internals_are_used_in_the_adapter_files_only() -> None:
    offenders = [
        (path, name)
        for path, tree in modules()
        if path not in ADAPTERS
        for name in imported(tree)
        if name.split(".")[0] == "flwr" and name not in FLOWER
    ]
    assert not offenders


def test_nothing_is_pickled() -> None:
    banned = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
    offenders = [(path, name) for path, tree in modules() for name in imported(tree) if name.split(".")[0] in banned]
    calls = [
        (path, node.lineno)
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"torch.load", "torch.save"}
    ]
    assert not offenders
    assert not calls


def test_what_a_fast_handler_needs_does_not_import_torch() -> None:
    trees = dict(modules())
    for path in (*WITHOUT_TORCH, *(path for path in trees if path.startswith("compliance/"))):
        assert "torch" not in {name.split(".")[0] for name in imported(trees[path])}, path


def test_json_and_toml_are_parsed_in_one_place() -> None:
    """Whoever parses a text himself ends with a traceback where it nests thousands deep."""
    own = {"shared/parsing.py", "compliance/verify.py"}  # the latter imports nothing of fedward
    found = {
        name
        for name, tree in modules()
        if name not in own
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr)
        in {("json", "load"), ("json", "loads"), ("tomllib", "load"), ("tomllib", "loads")}
    }
    assert not found


def test_files_and_functions_stay_readable() -> None:
    long = [
        (path, node.name, node.end_lineno - node.lineno)
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 60
    ]
    assert not long
    assert not [path for path, _ in modules() if len((HOUSE / path).read_text(encoding="utf-8").splitlines()) > 400]


def test_no_command_waits_for_torch_before_it_is_asked_for_anything() -> None:
    """Seconds at every start; and Opacus sets up a log of its own that prints what one line is to say."""
    program = "import sys; from shared.cli import build; build(); print({'torch', 'opacus'} & set(sys.modules) or '')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
