"""The charter: what a file may say, what it may not, and that its hash is of its content."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.charter import Charter, PrivacyPlan, TaskPlan
from shared.errors import CharterError

TEXT = """
[federation]
id = "demo"
purpose = "image enhancement research"

[[task]]
name = "denoise"
rounds = 3
local_steps = 2
"""

plans = st.builds(
    TaskPlan,
    name=st.sampled_from(["denoise", "superres", "segment"]),
    rounds=st.integers(1, 1000),
    local_steps=st.integers(1, 50),
    batch=st.integers(1, 64),
    local_optimizer=st.sampled_from(["SGD", "Adam"]),
    local_lr=st.floats(1e-6, 10),
    server_optimizer=st.sampled_from(["SGD", "Adam", "RMSprop"]),
    server_lr=st.floats(1e-6, 10),
    proximal=st.floats(0, 10),
    evaluate_every=st.integers(1, 10),
)
charters = st.builds(
    Charter,
    id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    purpose=st.text(st.characters(exclude_categories=["Cs"]), min_size=3, max_size=40),
    tasks=st.lists(plans, min_size=1, max_size=3, unique_by=lambda plan: plan.name).map(tuple),
    privacy=st.builds(PrivacyPlan, mode=st.sampled_from(["off", "patient"]), delta=st.none() | st.floats(1e-9, 0.1)),
    deadline=st.floats(0.1, 1000),
    seed=st.integers(0, 2**53 - 1),
)


@given(charters)
def test_a_written_charter_reads_back_equal_and_hashes_equal(charter: Charter) -> None:
    again = Charter.parse(charter.to_toml())
    assert again == charter
    assert again.sha256 == charter.sha256


def test_layout_and_comments_do_not_change_the_hash_but_content_does() -> None:
    base = Charter.parse(TEXT)
    assert Charter.parse("# a comment\n" + TEXT.replace("rounds = 3", "rounds   =   3  # three")).sha256 == base.sha256
    assert Charter.parse(TEXT.replace("rounds = 3", "rounds = 4")).sha256 != base.sha256


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (("rounds = 3", "ronds = 3\nrounds = 3"), "unknown key 'task.0.ronds'", "did you mean 'rounds'?"),
        (
            ("[federation]", "[federatoin]\nx = 1\n[federation]"),
            "unknown key 'federatoin'",
            "did you mean 'federation'?",
        ),
        (("rounds = 3", "rounds = 0"), "task.0.rounds: must be 1 or more", "mend"),
        (("rounds = 3", 'rounds = "3"'), "task.0.rounds", "mend"),
        (("rounds = 3", "rounds = 3\nlocal_lr = inf"), "task.0.local_lr", "mend"),
        (("rounds = 3", 'rounds = 3\nserver_optimizer = "LBFGS"'), "task.0.server_optimizer", "mend"),
        (("rounds = 3", "rounds = "), "not valid TOML", "mend the line"),
        (('id = "demo"', ""), "federation.id: is missing", "mend"),
    ],
)
def test_a_mistake_is_named_in_one_line_with_what_to_do(change: tuple[str, str], message: str, hint: str) -> None:
    with pytest.raises(CharterError) as caught:
        Charter.parse(TEXT.replace(*change), source="study.toml")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def test_a_task_stands_once() -> None:
    task = TEXT[TEXT.index("[[task]]") :]
    with pytest.raises(CharterError, match="stands twice"):
        Charter.parse(TEXT + task)


def test_a_task_that_the_charter_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(CharterError) as caught:
        Charter.parse(TEXT).task("segment")
    assert "denoise" in caught.value.hint


def test_a_missing_or_binary_file_is_one_line(tmp_path) -> None:
    with pytest.raises(CharterError, match="cannot read the charter"):
        Charter.load(tmp_path / "none.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CharterError, match="cannot read the charter"):
        Charter.load(tmp_path / "x.toml")
