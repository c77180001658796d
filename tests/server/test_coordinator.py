"""A coordinator's folder: secrets for its owner alone, whom it admitted, and no surprises when it is opened again."""

import json
from pathlib import Path

import pytest

from server.coordinator import Coordinator
from shared.errors import OutputError, PolicyError, ProtocolError, UsageError
from tests.federation.members import request_of


def make(folder: Path, **changes: str) -> Coordinator:
    return Coordinator.create(folder, **{"name": "imaging-1", "address": "fl.example.org:9443"} | changes)


def test_a_new_one_is_for_its_owner_alone(tmp_path: Path) -> None:
    made = make(tmp_path / "c", country="DE")
    assert Coordinator.open(tmp_path / "c") == made
    assert (made.name, made.address, made.country) == ("imaging-1", "fl.example.org:9443", "DE")
    for folder in (made.folder, made.folder / "keys", made.members_folder, made.superlink_folder, made.runs_folder):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert made.secret_path.stat().st_mode & 0o777 == 0o600
    assert json.loads((made.folder / "coordinator.json").read_text())["version"] == 1


def test_it_has_one_secret_and_keeps_it(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    assert len(bytes.fromhex(made.secret())) == 32
    assert make(tmp_path / "a").secret() == made.secret() != make(tmp_path / "b").secret()
    assert made.secret() not in repr(made)


def test_a_secret_that_others_may_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    made = make(tmp_path)
    made.secret_path.chmod(0o640)
    with pytest.raises(PolicyError, match="others may read") as caught:
        made.secret()
    assert "chmod 600" in caught.value.hint
    made.secret_path.chmod(0o600)
    for text in ("", "ab" * 31, "AB" * 32, "ab" * 32 + "\n"):
        made.secret_path.write_text(text)
        with pytest.raises(UsageError, match="is damaged"):
            made.secret()
    made.secret_path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        made.secret()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "two words"}, "name: must be 1 to 64 letters"),
        ({"name": ""}, "name: must be 1 to 64 letters"),
        ({"address": "fl.example.org"}, "address: must be host:port"),
        ({"address": "https://fl.example.org:1"}, "address: must be host:port"),
        ({"country": "UK"}, "country: must be a country's code"),
    ],
)
def test_what_cannot_stand_in_a_charter_is_refused_and_nothing_is_made(
    tmp_path: Path, change: dict[str, str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        make(tmp_path / "c", **change)
    assert not (tmp_path / "c").exists()


def test_another_coordinators_folder_is_not_taken_over(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UsageError, match="is the coordinator imaging-1"):
        make(tmp_path, name="imaging-2")
    assert make(tmp_path, address="other.example.org:9443").address == "other.example.org:9443"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        make(tmp_path / "file" / "c")


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{}", '{"name": "a", "address": "h:1", "version": 2}', '{"name": 3, "version": 1}']
)
def test_a_folder_that_is_none_is_told_as_one(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "coordinator.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        Coordinator.open(tmp_path)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_its_members_are_the_requests_that_were_approved_and_each_is_checked_again(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert made.members() == ()
    requests = [request_of(f"H{number}", number) for number in (2, 1)]
    for one in requests:
        one.write(made.members_folder / f"{one.site}.json")
    assert [one.site for one in made.members()] == ["H1", "H2"]
    path = made.members_folder / "H1.json"
    path.rename(made.members_folder / "H3.json")
    with pytest.raises(UsageError, match="is the request of H1"):
        made.members()
    (made.members_folder / "H3.json").write_text((made.members_folder / "H2.json").read_text().replace("H2", "H3"))
    with pytest.raises(ProtocolError, match="the signature does not fit"):
        made.members()
