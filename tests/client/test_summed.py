"""A hospital is never in two sums over one round, whatever the coordinator calls them."""

from pathlib import Path

import pytest

from client.summed import Purpose, Summed
from shared.errors import OutputError, PolicyError, RecordError

ONE, TWO, THREE = (bytes([n]) * 32 for n in (1, 2, 3))
TRAIN = Purpose("train", "denoise", 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sums" / "charter.jsonl"


@pytest.fixture
def summed(path: Path) -> Summed:
    found = Summed(path)
    found.masked(ONE, TRAIN)
    found.revealed(ONE, (1, 2, 3, 4), "denoise", 3)
    found.masked(TWO, TRAIN)
    return found


@pytest.mark.control("GDPR-25-masks")
def test_another_set_over_a_round_that_was_unmasked_is_refused(summed: Summed) -> None:
    for act in (summed.check, summed.revealed):
        with pytest.raises(PolicyError, match="the difference of two sums"):
            act(TWO, (1, 2, 3), "denoise", 3)


def test_the_same_set_again_gives_nothing_new_and_is_allowed(summed: Summed, path: Path) -> None:
    summed.check(TWO, (1, 2, 3, 4), "denoise", 3)
    summed.revealed(TWO, (1, 2, 3, 4), "denoise", 3)
    before = path.read_bytes()
    summed.revealed(TWO, (1, 2, 3, 4), "denoise", 3)
    assert path.read_bytes() == before


def test_a_round_that_was_only_confirmed_may_be_repeated_with_others(path: Path) -> None:
    summed = Summed(path)
    summed.masked(ONE, TRAIN)
    summed.check(ONE, (1, 2, 3, 4), "denoise", 3)
    summed.masked(TWO, TRAIN)
    summed.revealed(TWO, (1, 2, 3), "denoise", 3)


def test_other_rounds_tasks_and_kinds_are_other_sums(summed: Summed) -> None:
    for purpose in (Purpose("evaluate", "denoise", 3), Purpose("train", "denoise", 33), Purpose("train", "segment", 3)):
        summed.masked(THREE, purpose)
        summed.revealed(THREE, (2, 3, 4), purpose.task, purpose.round)
        summed = Summed(summed._path.with_name(f"{purpose.key}.jsonl"))


@pytest.mark.parametrize(("task", "number"), [("denoise", 4), ("segment", 3)])
def test_an_answer_is_not_summed_under_another_task_or_round(summed: Summed, task: str, number: int) -> None:
    with pytest.raises(PolicyError, match="masked nothing under that context"):
        summed.check(TWO, (1, 2, 3), task, number)


def test_what_was_never_masked_is_never_confirmed(path: Path) -> None:
    with pytest.raises(PolicyError, match="masked nothing"):
        Summed(path).check(ONE, (1, 2, 3), "denoise", 3)


def test_a_line_that_was_never_acknowledged_is_cut_off(summed: Summed, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"context":"03')
    summed.check(TWO, (1, 2, 3, 4), "denoise", 3)
    assert path.read_bytes() == whole


def test_a_damaged_file_is_refused(summed: Summed, path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"included":[1', b'"included":{1'))
    with pytest.raises(RecordError, match="damaged"):
        summed.check(TWO, (1, 2, 3, 4), "denoise", 3)


def test_the_file_is_for_its_owner_alone_and_durable(
    path: Path, summed: Summed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path.stat().st_mode & 0o777 == 0o600

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.summed.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        summed.masked(THREE, TRAIN)
