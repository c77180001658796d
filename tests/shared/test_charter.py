"""The charter: what a file may say, what it may not, and that its hash is of its content."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.charter import Charter, CharterMember, CoordinatorPlan, MaskingPlan, PrivacyPlan, TaskPlan
from shared.errors import CharterError
from shared.identity import forgeable
from shared.secagg.parameters import Thresholds

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
    name=st.sampled_from(["denoise", "superres", "superres_gan", "superres4", "superres4_gan", "segment"]),
    rounds=st.integers(1, 1000),
    local_steps=st.integers(1, 50),
    batch=st.integers(1, 64),
    local_optimizer=st.sampled_from(["SGD", "Adam"]),
    local_lr=st.floats(1e-6, 10),
    server_optimizer=st.sampled_from(["SGD", "Adam", "RMSprop"]),
    server_lr=st.floats(1e-6, 10),
    proximal=st.floats(0, 10),
    evaluate_every=st.integers(1, 10),
    weight_decay=st.none() | st.floats(0, 10),
    dropout=st.none() | st.floats(1e-3, 0.9),
    zoom=st.none() | st.floats(1e-3, 1),
    rotation=st.none() | st.floats(1e-3, 45),
    input_noise=st.none() | st.floats(1e-6, 1),
    foreground=st.none() | st.floats(1e-3, 1),
)
keys = st.binary(min_size=32, max_size=32).filter(lambda key: not forgeable(key))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)

countries = st.none() | st.sampled_from(["DE", "CN", "US"])
addresses = st.sampled_from(["fl.example.org:9443", "192.0.2.7:1", "[2001:db8::7]:65535"])
coordinators = st.builds(CoordinatorPlan, names, addresses, keys.map(bytes.hex), countries)


@st.composite
def masked(draw: st.DrawFn) -> dict[str, Any]:
    """Members and masks that the rule of the parameters allows."""
    one = st.builds(CharterMember, names, keys.map(bytes.hex), countries)
    alone = (lambda member: member.name, lambda member: member.identity)
    members = draw(st.lists(one, min_size=3, max_size=7, unique_by=alone))
    threshold = draw(st.integers(len(members) // 2 + 1, len(members)).filter(lambda number: number >= 2))
    most = Thresholds(len(members), threshold).colluding
    plan = draw(
        st.builds(
            MaskingPlan,
            threshold=st.just(threshold),
            colluding=st.integers(0, most),
            min_included=st.integers(3, len(members)),
            ring_bits=st.sampled_from([16, 32]),
            clip=st.floats(1e-6, 1e6),
            w_max=st.integers(1, 1_000_000),
            post_quantum=st.booleans(),
            apps=st.lists(keys.map(bytes.hex), max_size=3).map(tuple),
        )
    )
    found: dict[str, Any] = {"members": tuple(members), "masking": plan}
    if plan.ring_bits == 32 and draw(st.booleans()):
        found["privacy"] = PrivacyPlan(mode="distributed", patients=draw(st.integers(2, 4_000)))  # a ring holds them
        one_step = TaskPlan(name="denoise", rounds=draw(st.integers(1, 1000)), local_steps=1)
        found["tasks"] = (one_step,)
    return found


def build(parts: dict[str, Any], **rest: Any) -> Charter:
    return Charter(**{**rest, **parts})


charters = st.builds(
    build,
    parts=st.just({}) | masked(),
    id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    purpose=st.text(st.characters(exclude_categories=["Cs"]), min_size=3, max_size=40),
    tasks=st.lists(plans, min_size=1, max_size=3, unique_by=lambda plan: plan.name).map(tuple),
    privacy=st.builds(PrivacyPlan, mode=st.sampled_from(["off", "patient"]), delta=st.none() | st.floats(1e-9, 0.1)),
    deadline=st.floats(0.1, 1000),
    seed=st.integers(0, 2**53 - 1),
    coordinator=st.none() | coordinators,
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


def test_a_charter_from_before_coordinators_and_countries_keeps_its_hash() -> None:
    assert Charter.parse(MASKED).sha256 == "d82fb5dd6831ab117eac9ab8f788eec59613718f5a0a7c9ec07221619bcc7cdd"


@pytest.mark.parametrize(
    "line",
    [
        "weight_decay = 0.0",
        "dropout = 0.1",
        "zoom = 0.1",
        "rotation = 5.0",
        "input_noise = 0.1",
        "foreground = 0.5",
        'network = "dncnn"',
    ],
)
def test_a_later_key_counts_where_it_stands(line: str) -> None:
    said = Charter.parse(MASKED.replace("local_steps = 2", f"local_steps = 2\n{line}"))
    assert said.sha256 != Charter.parse(MASKED).sha256


@given(charters, coordinators)
def test_a_coordinator_counts_in_the_hash(charter: Charter, plan: CoordinatorPlan) -> None:
    other = dataclasses.replace(charter, coordinator=plan)
    assert (other.sha256 == charter.sha256) == (other == charter)


@given(masked(), st.data())
def test_the_country_of_a_member_counts_in_the_hash(parts: dict[str, Any], data: st.DataObject) -> None:
    one = build({"id": "x", "purpose": "tests", "tasks": (TaskPlan("denoise", 1, 1),), **parts})
    index = data.draw(st.integers(0, len(one.members) - 1))
    moved = list(one.members)
    moved[index] = dataclasses.replace(moved[index], country=data.draw(countries))
    other = dataclasses.replace(one, members=tuple(moved))
    assert (other.sha256 == one.sha256) == (other == one)


LINKED = f"""
[coordinator]
name = "imaging-1"
address = "fl.example.org:9443"
authority = "{"c" * 64}"
country = "DE"
"""


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (('name = "imaging-1"\n', ""), "coordinator.name: is missing", "server init"),
        (('"imaging-1"', '"our hospital"'), "coordinator.name: must be 1 to 64 letters", "server init"),
        (("fl.example.org:9443", "fl.example.org"), "coordinator.address: must be host:port", "server init"),
        (("fl.example.org:9443", "https://fl.example.org:9443"), "coordinator.address: must be host:port", "init"),
        (("c" * 64, "c" * 63), "coordinator.authority: must be 64 hexadecimal digits", "64 lower-case"),
        (('"DE"', '"UK"'), "coordinator.country: must be a country's code of two capitals", "DE, CN, US"),
        (("country", "contry"), "unknown key 'coordinator.contry'", "did you mean 'country'?"),
        (("[coordinator]", "[[coordinator]]"), "coordinator: must be a table", "once"),
        (('name = "H2"', 'name = "H2"\ncountry = "de"'), "member.1.country: must be a country's code", "leave it out"),
    ],
)
def test_a_mistake_about_the_link_is_named_in_one_line(change: tuple[str, str], message: str, hint: str) -> None:
    text = MASKED + LINKED
    assert Charter.parse(text).coordinator == CoordinatorPlan("imaging-1", "fl.example.org:9443", "c" * 64, "DE")
    assert change[0] in text
    with pytest.raises(CharterError) as caught:
        Charter.parse(text.replace(*change), source="study.toml")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


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


MEMBERS = "".join(f'[[member]]\nname = "H{n}"\nidentity = "{str(n) * 64}"\n' for n in (1, 2, 3))
MASKED = f"{TEXT}\n[secure_aggregation]\nthreshold = 3\n{MEMBERS}"


@given(charters)
def test_the_federation_is_the_same_for_everybody_who_read_the_charter(charter: Charter) -> None:
    if charter.masking is not None:
        again = Charter.parse(charter.to_toml())
        assert again.federation.fingerprint == charter.federation.fingerprint


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            ("threshold = 3", "threshold = 3\nthreshhold = 3"),
            "unknown key 'secure_aggregation.threshhold'",
            "threshold",
        ),
        (("threshold = 3", "threshold = 3\nmagic = 3"), "unknown key", "known here: threshold"),
        (("threshold = 3", ""), "secure_aggregation.threshold: is missing", "how many hospitals must answer"),
        (("threshold = 3", "threshold = 2"), "the threshold 2 is too low", "at least 3 is needed"),
        (("threshold = 3", "threshold = 4"), "threshold 4 and 1 colluding", "1 to 3"),
        (("threshold = 3", "threshold = 101"), "secure_aggregation.threshold: must be 100 or less", "how many"),
        (("threshold = 3", "threshold = 3.0"), "secure_aggregation.threshold: must be a whole number", "how"),
        (("threshold = 3", "threshold = true"), "secure_aggregation.threshold: must be a whole number", "how"),
        (("threshold = 3", "threshold = 3\ncolluding = 2"), "the threshold 3 is too low", "cannot withstand 2"),
        (("threshold = 3", "threshold = 3\ncolluding = -1"), "secure_aggregation.colluding", "0 or more"),
        (("threshold = 3", "threshold = 3\nmin_included = 2"), "secure_aggregation.min_included", "3 or more"),
        (("threshold = 3", "threshold = 3\nmin_included = 4"), "min_included is 4, not 3 to 3", "reads the other's"),
        (("threshold = 3", "threshold = 3\nring_bits = 24"), "ring_bits: must be 16 or 32", "half the upload"),
        (("threshold = 3", "threshold = 3\nclip = 0.0"), "secure_aggregation.clip", "above 0"),
        (("threshold = 3", "threshold = 3\nclip = nan"), "secure_aggregation.clip", "above 0"),
        (("threshold = 3", "threshold = 3\nw_max = 0"), "secure_aggregation.w_max", "1 to 1000000"),
        (("threshold = 3", 'threshold = 3\npost_quantum = "yes"'), "secure_aggregation.post_quantum", "true or false"),
        (("threshold = 3", 'threshold = 3\napps = ["abc"]'), "secure_aggregation.apps.0", "64 lower-case"),
        (("threshold = 3", 'threshold = 3\napps = "abc"'), "secure_aggregation.apps: must be a list", "64 lower-case"),
        (("[secure_aggregation]", "[[secure_aggregation]]"), "secure_aggregation: must be a table", "once"),
        (("[secure_aggregation]\nthreshold = 3\n", ""), "has members and no [secure_aggregation]", "threshold"),
        ((MEMBERS, ""), "3 to 100 hospitals, not 0", "with two"),
        ((MEMBERS, '[member]\nname = "H1"\n'), "member: must be a list", "write [[member]]"),
        (('name = "H2"\n', ""), "member.1.name: is missing", "from the hospital's request"),
        (('name = "H2"', 'nme = "H2"'), "unknown key 'member.1.nme'", "did you mean 'name'?"),
        (('name = "H2"', 'name = "St. Mary"'), "member.1.name: must be 1 to 64 letters", "letters, digits"),
        (('name = "H2"', 'name = "H1"'), "two members have the same name", "its own"),
        (("2" * 64, "1" * 64), "two members have the same identity", "its own"),
        (("2" * 64, "2" * 63), "member.1.identity: must be 64 hexadecimal digits", "64 lower-case"),
        (("2" * 64, "2" * 65), "member.1.identity: must be 64 hexadecimal digits", "64 lower-case"),
        (("2" * 64, "A" * 64), "member.1.identity: must be 64 hexadecimal digits", "64 lower-case"),
        (("2" * 64, "g" * 64), "member.1.identity: must be 64 hexadecimal digits", "64 lower-case"),
        (("2" * 64, "0" * 64), "member.1.identity: is a key under which anybody could sign", "from the hospital's"),
    ],
)
def test_a_mistake_in_members_and_masks_is_named_in_one_line(change: tuple[str, str], message: str, hint: str) -> None:
    assert change[0] in MASKED
    with pytest.raises(CharterError) as caught:
        Charter.parse(MASKED.replace(*change), source="study.toml")
    assert caught.value.message.startswith("study.toml: ")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_charter_without_masks_has_no_federation() -> None:
    with pytest.raises(CharterError, match="no secure aggregation"):
        _ = Charter.parse(TEXT).federation


def test_under_differential_privacy_every_weight_is_one() -> None:
    assert Charter.parse(MASKED).federation.w_max == MaskingPlan.w_max
    assert Charter.parse(MASKED + '[privacy]\nmode = "patient"\n').federation.w_max == 1


def test_integers_are_summed_under_distributed_noise_alone() -> None:
    assert not Charter.parse(MASKED + '[privacy]\nmode = "patient"\n').federation.integers
    shared = MASKED.replace("local_steps = 2", "local_steps = 1") + '[privacy]\nmode = "distributed"\npatients = 90\n'
    federation = Charter.parse(shared).federation
    assert (federation.integers, federation.w_max, federation.ring_bits) == (True, 1, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("patients = 90", ""), "needs privacy.patients"),
        (("local_steps = 1", "local_steps = 2"), "a round is one clipped sum"),
        (("local_steps = 1", "local_steps = 1\nproximal = 0.1"), "a round is one clipped sum"),
        (("local_steps = 1", "local_steps = 1\nweight_decay = 0.1"), "a round is one clipped sum"),
        (("threshold = 3", "threshold = 3\nring_bits = 16"), "32 bits"),
        (("patients = 90", "patients = 9000000\nnoise_multiplier = 0.1"), "steps of a ring of 32 bits"),
    ],
)
def test_what_distributed_noise_cannot_protect_is_no_charter(change: tuple[str, str], message: str) -> None:
    shared = MASKED.replace("local_steps = 2", "local_steps = 1") + '[privacy]\nmode = "distributed"\npatients = 90\n'
    with pytest.raises(CharterError) as caught:
        Charter.parse(shared.replace(*change), source="study.toml")
    assert message in caught.value.message
    assert caught.value.message.startswith("study.toml: ")


@pytest.mark.parametrize(("sigma", "sound"), [(0.01, True), (0.0099, False), (1e-300, False), (0.0, False)])
def test_noise_that_is_next_to_none_is_no_charter(sigma: float, sound: bool) -> None:
    text = f'{TEXT}[privacy]\nmode = "patient"\nnoise_multiplier = {sigma}\n'
    if sound:
        assert Charter.parse(text).privacy.noise_multiplier == sigma
        return
    with pytest.raises(CharterError, match="noise_multiplier"):
        Charter.parse(text)


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


def test_a_release_to_start_from_counts_in_the_hash_and_none_does_not() -> None:
    base = Charter.parse(TEXT)
    assert "release" not in base.to_toml()
    started = Charter.parse(TEXT + f'start = "release"\nrelease = "{"a" * 64}"\n')
    other = Charter.parse(TEXT + f'start = "release"\nrelease = "{"b" * 64}"\n')
    assert len({base.sha256, started.sha256, other.sha256}) == 3
    assert Charter.parse(started.to_toml()) == started


@pytest.mark.parametrize("keys", ['start = "release"', f'release = "{"a" * 64}"', 'start = "release"\nrelease = "x"'])
def test_a_start_from_a_release_says_which_one(keys: str) -> None:
    with pytest.raises(CharterError, match="release"):
        Charter.parse(TEXT + keys + "\n")
