"""Texts that nest too deeply are refused in words, at one depth whoever asks."""

import json
import tomllib
from pathlib import Path

import pytest

from shared.errors import RecordError
from shared.parsing import DEEPEST, TooDeepError, load_json, parse_json, parse_toml


def arrays(levels: int) -> str:
    return "[" * levels + "]" * levels


def tables(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("form", [arrays, tables])
def test_json_is_taken_as_deep_as_it_may_be_and_no_deeper(form: object) -> None:
    assert callable(form)
    assert parse_json(form(DEEPEST)) == json.loads(form(DEEPEST))
    for levels in (DEEPEST + 1, 900, 5_000, 1_000_000):
        for text in (form(levels), form(levels).encode()):
            with pytest.raises(TooDeepError, match="nests deeper than 100 levels"):
                parse_json(text)


def test_many_brackets_beside_each_other_are_not_deep() -> None:
    wide = [[{"a": [1]}]] * 1000
    assert parse_json(json.dumps(wide)) == wide
    assert parse_json(json.dumps("[" * 1000)) == "[" * 1000


def test_what_stands_for_an_object_is_the_callers() -> None:
    assert parse_json('{"a": 1, "a": 2}', pairs=list) == [("a", 1), ("a", 2)]
    with pytest.raises(TooDeepError):
        parse_json(tables(DEEPEST + 1), pairs=dict)


@pytest.mark.parametrize(
    "text",
    ["a = " + arrays(5_000), "a = " + "{a=" * 5_000 + "1" + "}" * 5_000, ".".join("a" * 5_000) + " = 1", "a = ["],
)
def test_toml_that_nests_too_deeply_is_no_toml(text: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        parse_toml(text)


def test_toml_is_read(tmp_path: Path) -> None:
    assert parse_toml("[a.b]\nc = [1, [2]]") == {"a": {"b": {"c": [1, [2]]}}}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"9" * 5_000, arrays(5_000).encode()])
def test_a_damaged_file_is_an_error_of_the_callers_kind(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(RecordError, match="cannot read"):
        load_json(path, error=RecordError, hint="restore it")
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"a\.json is damaged"):
        load_json(path, error=RecordError, hint="restore it")
