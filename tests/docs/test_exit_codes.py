"""The table of exit codes says what the code does."""

import re
from pathlib import Path

from shared import errors

TABLE = Path(__file__).parents[2] / "docs" / "exit-codes.md"


def test_every_error_stands_in_the_table_with_its_code() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", TABLE.read_text(), flags=re.MULTILINE)
    documented = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    classes = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.FedwardError)
    }
    assert documented == classes
