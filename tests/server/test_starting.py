"""What is said of a run: how far it is, and who took part."""

from server.link_cli import _in_words
from server.starting import latest


def test_a_resumed_run_is_where_it_was() -> None:
    """Its progress begins the task anew; before, one that failed at once counted as being in round 0."""
    progress = [
        {"task": "denoise", "rounds": 5},
        {"task": "denoise", "rounds": 5, "round": 0},
        {"task": "denoise", "rounds": 5, "round": 3},
        {"task": "denoise", "rounds": 5},
    ]
    assert latest(progress) == {"task": "denoise", "rounds": 5, "round": 3}
    assert latest([*progress, {"task": "segment", "rounds": 2}]) == {"task": "segment", "rounds": 2, "round": 0}
    assert latest([]) == {}


def test_a_round_is_told_in_words() -> None:
    one = {"task": "denoise", "rounds": 5, "round": 2, "answered": ["H2", "H3"], "missing": ["H1"], "seconds": 3.21}
    assert _in_words(one) == "denoise round 2 of 5: 2 hospitals, without H1, 3.2 s"
    assert _in_words({**one, "round": 0, "missing": []}) == "denoise before its first round: 2 hospitals, 3.2 s"
    assert _in_words({"task": "denoise", "rounds": 1}) == "denoise: 1 round"
