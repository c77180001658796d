"""Whoever writes a charter, a profile or a determination reads what the entry must be, and no words of a library."""

import json
from pathlib import Path

import pytest

from client.deid.determination import read_determination
from client.deid.profile_file import read_profile
from shared.charter import Charter
from shared.errors import FedwardError

DRAFT = {"expert": "E", "scope": "s", "profile_sha256": "0" * 64, "expires": "2030-01-01"}
SIGNED = {**DRAFT, "public_key": "0" * 64, "signature": "0" * 128}
CHARTER = '[federation]\nid = "a"\npurpose = "research"\n[[task]]\nname = "denoise"\nrounds = 3\nlocal_steps = 1\n'
RAW = ("Input should", "input should", "String should", "Field required", "Extra inputs", "valid ", "[type=", "Errno")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('extends = "basics"', "extends: must be 'basic', 'safe-harbor' or 'research'"),
        ('extends = "basic"\noptions = "x"', "options: must be a list, in square brackets"),
        ('extends = "basic"\noptions = [1]', "options.0: must be text, in quotes"),
        ('extends = "basic"\n[pixels]\nexamine = "some"', "pixels.examine: must be 'suspect' or 'all'"),
        ('extends = "basic"\npixels = 3', "pixels: must be a table of names and values"),
        ('extends = "basic"\nexperts = ["abc"]', "experts.0: must be 64 hexadecimal digits"),
        ('extends = "basic"\ntitel = "x"', "titel: is not known here"),
    ],
)
def test_a_profile(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(FedwardError) as caught:
        read_profile(str(path))
    assert says in caught.value.message
    assert not [one for one in RAW if one in str(caught.value)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"expires": "soon"}, "expires: must be a date such as 2027-06-30"),
        ({"expires": None}, "expires: must be a date such as 2027-06-30"),
        ({"expert": ""}, "expert: must not be empty"),
        ({"signature": "0"}, "signature: must be 128 hexadecimal digits"),
        ({"scope": 1}, "scope: must be text, in quotes"),
    ],
)
def test_a_determination(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    path = tmp_path / "signed.json"
    path.write_text(json.dumps({**SIGNED, **changes}))
    with pytest.raises(FedwardError) as caught:
        read_determination(path)
    assert says in caught.value.message
    assert not [one for one in RAW if one in str(caught.value)]


@pytest.mark.parametrize("content", [b"expert", b"[]", b"\xff\xfe"])
def test_what_is_no_json_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "signed.json"
    path.write_bytes(content)
    with pytest.raises(FedwardError, match="no expert determination") as caught:
        read_determination(path)
    assert not [one for one in RAW if one in str(caught.value)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("batch = 1.5", "task.0.batch: must be a whole number"),
        ("batch = 9999", "task.0.batch: must be 4096 or less"),
        ("local_lr = 0", "task.0.local_lr: must be more than 0"),
        ("local_lr = inf", "task.0.local_lr: must be a finite number"),
        ('local_optimizer = "LBFGS"', "task.0.local_optimizer: must be 'SGD', "),
        ('[privacy]\nmode = "some"', "privacy.mode: must be '"),
    ],
)
def test_a_charter(line: str, says: str) -> None:
    with pytest.raises(FedwardError) as caught:
        Charter.parse(f"{CHARTER}{line}\n")
    assert says in caught.value.message
    assert not [one for one in RAW if one in str(caught.value)]


def test_a_charter_that_is_not_there_is_told_without_the_words_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FedwardError) as caught:
        Charter.load(tmp_path / "none.toml")
    assert not [one for one in RAW if one in str(caught.value)]
