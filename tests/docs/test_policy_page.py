"""``docs/policy.md`` has every key of a policy with its default, and no other."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from client.policy_file import DeviceTable, ErasureTable, PolicyForm, RecordTable

PAGE = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()


def rows(section: str) -> dict[str, str]:
    """The keys in a section's table, with their defaults."""
    text = re.split(r"^## .*$", PAGE.split(f"## {section}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `(\w+)` \|[^|]*\| ?(.*?) ?\|", text, flags=re.MULTILINE))


def written(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value or "")


TABLES = {"device", "erasure", "record"}


@pytest.mark.parametrize(
    ("section", "form"),
    [
        ("Keys", PolicyForm),
        ("`[device]`", DeviceTable),
        ("`[record]`", RecordTable),
        ("`[erasure]`", ErasureTable),
    ],
)
def test_every_key_stands_there_with_its_default(section: str, form: type[BaseModel]) -> None:
    fields = {key: field for key, field in form.model_fields.items() if key not in TABLES}
    assert rows(section) == {key: written(field.default) for key, field in fields.items()}


def test_every_limit_names_the_law_that_it_serves() -> None:
    for key in set(PolicyForm.model_fields) - TABLES:
        line = next(line for line in PAGE.splitlines() if line.startswith(f"| `{key}`"))
        assert re.search(r"GDPR|PIPL|45 CFR", line), key


def test_the_table_of_the_record_names_the_law_too() -> None:
    section = PAGE.split("## `[record]`\n", 1)[1].split("\n## ", 1)[0]
    assert "45 CFR 164.312(c)(1)" in section
