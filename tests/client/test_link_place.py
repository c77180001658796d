"""Where a link connects to: by what the node has joined, and no longer by what it had joined before."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client import link_runs
from client.flower_node import Run
from client.link_place import Place, Post
from client.link_trouble import MovedError
from client.node import Node
from shared.certificates import Authority, digest, pem
from shared.charter_plans import CoordinatorPlan
from shared.errors import FedwardError, PolicyError, ProtocolError, UsageError
from shared.link_keys import make_key, read_key
from tests.federation import toy

ADDRESS = "fl.example.org:8443"


def authority(name: str) -> Authority:
    return Authority.make(ec.generate_private_key(ec.SECP384R1()), name)


OURS, OTHERS = authority("ours"), authority("others")


@dataclass
class Joined:
    node: Node

    def pin(self, signer: Authority, address: str = ADDRESS) -> None:
        plan = CoordinatorPlan("center", address, digest(signer.certificate))
        self.node.pin(replace(toy.charter(), coordinator=plan))

    def trust(self, signer: Authority) -> None:
        self.node.authority.write_bytes(pem(signer.certificate))

    def certify(self, signer: Authority, *, site: str = "H1", now: datetime | None = None) -> None:
        public = read_key(self.node.link_key).public_key()
        self.node.certificate.write_bytes(pem(signer.client(public, site, now=now)))

    def post(self) -> Post:
        return Post(self.node, lambda: Place.of(self.node))


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    made = Joined(Node.create(tmp_path / "H1", site="H1", purpose=toy.PURPOSE))
    made.node.link.mkdir(mode=0o700)
    made.pin(OURS)
    made.trust(OURS)
    made.certify(OURS)
    return made


def other_key(joined: Joined) -> None:
    path = joined.node.link_key
    path.unlink()
    make_key(path)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda one: one.certify(OURS, site="H2"), PolicyError, "'H2', not of H1"),
        (other_key, PolicyError, "for another key"),
        (lambda one: one.pin(OTHERS), PolicyError, "the charter names"),
        (lambda one: one.certify(OTHERS), ProtocolError, "issue"),
        (lambda one: one.certify(OURS, now=datetime.now(UTC) - timedelta(days=3000)), ProtocolError, "certificate"),
        (lambda one: one.node.certificate.unlink(), UsageError, "there is no"),
        (lambda one: one.node.certificate.write_bytes(b""), UsageError, "does not hold"),
    ],
    ids=["site", "key", "charter", "signer", "old", "none", "empty"],
)
def test_a_certificate_that_is_not_for_the_pinned_charter_leads_nowhere(
    spoil: Callable[[Joined], None], error: type[FedwardError], words: str, joined: Joined
) -> None:
    spoil(joined)
    with pytest.raises(error, match=words):
        Place.of(joined.node)


def test_a_link_stays_where_it_is_while_nothing_says_otherwise(joined: Joined) -> None:
    post = joined.post()
    post.hold()
    for path in (joined.node.authority, joined.node.certificate, joined.node.folder / "charter.toml"):
        shutil.copy(path, path.with_suffix(".copy"))
        path.with_suffix(".copy").replace(path)
        post.hold()
    joined.node.pin(replace(joined.node.charter, id="toy-2"))  # another charter of the same coordinator
    post.hold()
    assert post.place.address == ADDRESS


def test_a_new_certificate_a_new_authority_and_a_new_address_are_each_another_place(joined: Joined) -> None:
    post = joined.post()
    joined.certify(OURS)
    with pytest.raises(MovedError):
        post.hold()
    post = joined.post()
    joined.pin(OURS, "elsewhere.example.org:8443")
    with pytest.raises(MovedError):
        post.hold()
    with pytest.raises(MovedError):
        post.hold()


def test_a_node_that_is_joining_has_not_moved_before_the_last_file_is_written(joined: Joined) -> None:
    post = joined.post()
    for step in (joined.trust, joined.certify):
        step(OTHERS)
        with pytest.raises(FedwardError) as caught:
            post.hold()
        assert not isinstance(caught.value, MovedError)
    joined.pin(OTHERS)
    with pytest.raises(MovedError):
        post.hold()


def test_a_node_that_is_joining_takes_part_in_nothing_and_can_be_asked_again(joined: Joined) -> None:
    said: list[str] = []
    charter = joined.node.charter
    config = {"federation": charter.id, "charter": charter.sha256, "run": "run-1"}
    runs = link_runs.Runs(joined.node, None, joined.post(), None, expected=b"app", say=said.append)  # type: ignore[arg-type]  # neither is asked
    joined.trust(OTHERS)
    found = runs.objection(Run("flwr-serverapp", config, b"app"))
    assert found is not None
    assert found.code == "error"
    assert "this hospital cannot say what it allows" in found.reason
    assert "authority" in said[0]
    joined.certify(OTHERS)
    joined.pin(OTHERS)
    with pytest.raises(MovedError):
        runs.objection(Run("flwr-serverapp", config, b"app"))
