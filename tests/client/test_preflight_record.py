"""What ``fedward node check`` and a round ask of the witnesses of a hospital's log."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from client.node import Node
from client.preflight import Finding, Verdict, exit_code, preflight
from client.witnessing import require_witnessed
from compliance import shown
from compliance.checkpoint import Signed
from compliance.log import Action, Entry, Outcome
from compliance.place import Place, establish
from shared.errors import RecordError
from shared.files import private_folder
from tests.federation import toy
from tests.federation.members import invented, masked, member

SITES = ("H1", "H2", "H3")


@dataclass
class Town:
    """Three hospitals that have met each other's log keys; the first is looked at."""

    nodes: dict[str, Node]

    @property
    def node(self) -> Node:
        return self.nodes["H1"]

    @property
    def place(self) -> Place:
        return Place.open(self.node.folder)

    def write(self, count: int = 1) -> None:
        with self.node.open_log() as log:
            log.append_many([Entry(Action.ROUND, Outcome.OK, round=number) for number in range(count)])

    def publish(self) -> Signed:
        self.write()
        return self.place.trail.checkpoint()

    def cosigned(self, *sites: str, ago: timedelta = timedelta(0)) -> None:
        trail = self.place.trail
        newest = trail.newest()
        assert newest is not None
        for site in sites:
            signer = Place.open(self.nodes[site].folder).signer
            line = signer.cosign(newest.note.text, datetime.now(UTC) - ago)
            trail.add_cosignature(newest.size, line, signer.witness_key)

    def policy(self, text: str) -> None:
        path = self.node.folder / "policy.toml"
        path.write_text(f"require_privacy = false\n{text}")
        path.chmod(0o600)

    def look(self) -> Finding:
        found = {one.check: one for one in preflight(self.node, offline=True)}
        assert found["record"].verdict is Verdict.OK
        return found["witnesses"]


@pytest.fixture
def town(tmp_path: Path) -> Town:
    nodes = {site: Node.create(tmp_path / site, site=site, purpose=toy.PURPOSE) for site in SITES}
    rules = replace(masked((*map(member, nodes.values()), *invented(4)[3:4]), 3, {}), purpose=toy.PURPOSE)
    made = Town(nodes)
    made.policy("")
    for node in nodes.values():
        node.pin(rules)
        place = Place.open(node.folder)
        establish(place)
        known = nodes["H1"].folder / "audit" / shown.KNOWN
        private_folder(known)
        if node.site != "H1":
            place.endorsement.save(known / f"{quote(place.endorsement.origin, safe='')}.json")
    return made


def test_before_anything_is_published_nobody_is_missed(town: Town) -> None:
    assert town.look().verdict is Verdict.OK
    town.write()
    assert "no checkpoint yet" in town.look().what
    assert town.look().verdict is Verdict.OK


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_it_says_who_has_cosigned_and_when(town: Town) -> None:
    town.publish()
    alone = town.look()
    assert (alone.verdict, "not cosigned yet; 2 are needed, and no checkpoint has as many" in alone.what) == (
        Verdict.WARN,
        True,
    )
    town.cosigned("H2")
    assert "cosigned by 1 other hospital (H2); 2 are needed, and no" in town.look().what
    town.cosigned("H3")
    both = town.look()
    assert both.verdict is Verdict.OK, both
    assert "cosigned by 2 other hospitals (H2, H3), 2 of them, as many as are needed, by 20" in both.what
    town.publish()
    later = town.look()
    assert later.verdict is Verdict.OK
    assert "is not cosigned yet; the 2 that are needed had cosigned the one of 1 entry by 20" in later.what


def test_a_log_that_goes_on_unseen_for_a_day_is_worth_a_warning_and_one_that_rests_is_not(town: Town) -> None:
    town.publish()
    town.cosigned("H2", "H3", ago=timedelta(hours=25))
    assert town.look().verdict is Verdict.OK
    town.write()
    found = town.look()
    assert (found.verdict, "none was witnessed within a day" in found.what) == (Verdict.WARN, True)


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_a_policy_that_asks_for_witnesses_refuses_a_round_and_the_check_warns_of_it(town: Town) -> None:
    town.policy("[record]\n")
    for step, why in (
        (lambda: None, "have not cosigned"),
        (town.publish, "have not cosigned"),
        (lambda: town.cosigned("H2"), "have not cosigned"),
        (lambda: town.cosigned("H3", ago=timedelta(hours=1)), ""),
    ):
        step()
        found = town.look()
        if why:
            with pytest.raises(RecordError, match=why):
                require_witnessed(town.node)
            assert (found.verdict, "a round would be refused" in found.what) == (Verdict.WARN, True)
    require_witnessed(town.node)
    assert found.verdict is Verdict.OK
    with pytest.raises(RecordError, match="allows 24 hours"):
        require_witnessed(town.node, now=datetime.now(UTC) + timedelta(hours=25))


def cut(town: Town) -> None:
    path = town.place.log
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def lost(town: Town) -> None:
    cut(town)
    for path in (town.place.audit / "checkpoints").iterdir():
        path.unlink()
    (town.place.audit / "checkpoints").rmdir()


def split(town: Town) -> None:
    folder = town.place.witness_folder
    private_folder(folder)
    origin = Place.open(town.nodes["H2"].folder).endorsement.origin
    (folder / f"{quote(origin, safe='')}.split").write_text("evidence.json")


def disowned(town: Town) -> None:
    signer = town.place.signer
    path = town.place.audit / "endorsement.json"
    path.write_bytes(path.read_bytes().replace(signer.public.hex().encode(), (b"ab" * 32)))


@pytest.mark.control("HIPAA-164.312-c-witnessed", "HIPAA-164.312-c-integrity")
@pytest.mark.parametrize(
    ("harm", "why"), [(cut, "was cut off"), (lost, "was cut off"), (split, "H2.* showed two histories")]
)
def test_a_log_that_does_not_go_on_and_a_split_one_end_with_9(
    town: Town, harm: Callable[[Town], None], why: str
) -> None:
    town.write(3)
    town.publish()
    town.cosigned("H2", "H3")
    harm(town)
    found = town.look()
    assert (found.verdict, exit_code([found])) == (Verdict.FAIL, 9)
    assert re.search(why, found.what)
    assert found.mend


def test_a_key_that_nobody_vouches_for_is_a_failure(town: Town) -> None:
    town.publish()
    disowned(town)
    assert town.look().verdict is Verdict.FAIL
