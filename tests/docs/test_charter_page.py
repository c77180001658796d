"""``docs/charter.md`` has every key of a charter with its default, and no other."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from shared import charter_form

PAGE = (Path(__file__).parents[2] / "docs" / "charter.md").read_text()


def rows(table: str) -> dict[str, str]:
    """The keys in the section of a table, with their defaults."""
    section = re.split(r"^##+ .*$", PAGE.split(f"### `{table}`\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^\| `(\w+)` \|.*\| ?(.*?) ?\|$", section, flags=re.MULTILINE)
    return {key: default.strip("` ") for key, default in found}


def written(model: type[BaseModel], key: str) -> str:
    value = model.model_fields[key].default
    if value is PydanticUndefined or value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("name", list(charter_form.TABLES))
def test_every_key_stands_there_with_its_default(name: str) -> None:
    model = charter_form.TABLES[name]
    table = f"[[{name}]]" if name in {"task", "member"} else f"[{name}]"
    assert rows(table) == {key: written(model, key) for key in model.model_fields}
