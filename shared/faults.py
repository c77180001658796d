"""What is wrong with a file that people write, in words for them: those of pydantic are for who writes programs."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

_HEX = re.compile(r"\^\[0-9a-f\]\{(\d+)\}\$")
_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]"
_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "string_type": "must be text, in quotes",
    "string_too_long": "must have {max_length} letters at most",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false, without quotes",
    "list_type": "must be a list, in square brackets",
    "tuple_type": "must be a list, in square brackets",
    "dict_type": "must be a table of names and values",
    "model_type": "must be a table of names and values",
    "model_attributes_type": "must be a table of names and values",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "json_invalid": "it is no JSON: {error}",
}


def first_fault(error: ValidationError) -> str:
    """The first mistake that pydantic found, in one line: the entry, and what it must be."""
    found: Any = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    return f"{place}: {words_of(found)}" if place else words_of(found)


def words_of(found: Mapping[str, Any]) -> str:
    """What an entry of ``ValidationError.errors()`` means, as a sentence goes on after the name of the entry."""
    kind, about = str(found["type"]), found.get("ctx", {})
    if kind.startswith("date"):
        return "must be a date such as 2027-06-30"
    if kind == "string_pattern_mismatch":
        if about["pattern"].startswith(_NAME):
            return "must be 1 to 64 letters without accents, digits, dots, dashes or underscores, no spaces"
        digits = _HEX.fullmatch(about["pattern"])
        return f"must be {digits[1]} hexadecimal digits" if digits else f"must have the form {about['pattern']}"
    if kind in {"too_short", "string_too_short"}:
        least, unit = about["min_length"], "entries" if kind == "too_short" else "letters"
        return "must not be empty" if least == 1 else f"must have {least} {unit} or more"
    if kind in _WORDS:
        return _WORDS[kind].format(**about)
    message = str(found["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
