"""The core stays pure: no torch, no Flower, no sockets, no numpy generators."""

import ast
from pathlib import Path

import shared.secagg


def test_the_core_imports_nothing_that_it_must_not() -> None:
    banned = {"torch", "flwr", "socket", "random", "pydantic"}
    for path in Path(shared.secagg.__path__[0]).glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not banned & {name.split(".")[0] for name in names}, path
        assert "np.random" not in text, path
