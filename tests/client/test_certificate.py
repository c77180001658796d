"""The certificate of a hospital's link: kept only if it is this node's, for its key, of the charter's authority."""

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.certificate import LinkCertificate
from client.cli import app
from client.node import Node
from shared.bundle import digest as release
from shared.certificates import Authority, digest, pem
from shared.charter import Charter, CoordinatorPlan
from shared.errors import FedwardError, OutputError, PolicyError, ProtocolError, UsageError
from shared.link_keys import PublicKey, read_key
from tests.federation import toy
from tests.federation.members import command, hospitals, masked, member

OURS = Authority.make(ec.derive_private_key(1, ec.SECP384R1()), "imaging-1")
OTHERS = Authority.make(ec.derive_private_key(2, ec.SECP384R1()), "imaging-1")
PLAN = CoordinatorPlan("imaging-1", "fl.example.org:9443", digest(OURS.certificate), "DE")


@pytest.fixture
def nodes(tmp_path: Path) -> list[Node]:
    return hospitals(tmp_path)


def agreed(nodes: list[Node], plan: CoordinatorPlan | None = PLAN, **changes: Any) -> Charter:
    return masked(
        tuple(member(node) for node in nodes), len(nodes), changes.pop("masks", {}), coordinator=plan, **changes
    )


def public(node: Node) -> PublicKey:
    return read_key(node.link_key).public_key()


def issued(
    node: Node,
    *,
    by: Authority = OURS,
    shown: Authority | None = None,
    site: str = "",
    key: PublicKey | None = None,
    now: datetime | None = None,
) -> LinkCertificate:
    """A certificate for ``node``, or one with something wrong."""
    own = by.client(key or public(node), site or node.site, now=now)
    return LinkCertificate(own, (shown or by).certificate)


def written(folder: Path, certificate: LinkCertificate) -> Path:
    path = folder / "certificate.pem"
    path.write_bytes(pem(certificate.own, certificate.authority))
    return path


def file(folder: Path, rules: Charter) -> Path:
    path = folder / "charter.toml"
    path.write_text(rules.to_toml())
    return path


def join(node: Node, folder: Path, rules: Charter, certificate: Path | None, *options: str) -> str:
    shown = ["--certificate", str(certificate)] if certificate else []
    return command(app, "join", node.folder, file(folder, rules), "--sha256", rules.sha256, *shown, *options)


def refused(kind: type[FedwardError], words: str, node: Node, *rest: Any) -> str:
    with pytest.raises(FedwardError) as caught:
        join(node, *rest)
    assert type(caught.value) is kind, caught.value
    assert words in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert not node.certificate.exists()
    assert not (node.folder / "charter.toml").exists()
    assert not (node.folder / "audit").exists(), "nothing was begun"
    return caught.value.hint


def test_a_hospital_keeps_its_own_certificate_and_records_it_before_it_pins(nodes: list[Node], tmp_path: Path) -> None:
    rules, mine = agreed(nodes), issued(nodes[0])
    told = join(nodes[0], tmp_path, rules, written(tmp_path, mine))
    assert nodes[0].charter == rules
    assert LinkCertificate.stored(nodes[0]) == mine
    assert nodes[0].link.stat().st_mode & 0o777 == 0o700
    assert f"holds until {mine.until:%Y-%m-%d}" in told
    assert "imaging-1, at fl.example.org:9443, in DE" in told
    rows = toy.log_rows(nodes[0].folder)
    assert [(row["action"], row["outcome"]) for row in rows] == [
        ("link.certificate", "started"),
        ("link.certificate", "ok"),
        ("charter.pin", "started"),
        ("charter.pin", "ok"),
    ]
    detail = rows[0]["detail"]
    assert (detail["certificate"], detail["authority"]) == (mine.sha256, PLAN.authority)


def test_without_a_certificate_a_charter_with_a_coordinator_is_not_pinned(nodes: list[Node], tmp_path: Path) -> None:
    hint = refused(
        UsageError, "H1 has no certificate for the coordinator imaging-1", nodes[0], tmp_path, agreed(nodes), None
    )
    assert "--certificate H1.pem" in hint


def test_a_charter_without_a_coordinator_takes_none(nodes: list[Node], tmp_path: Path) -> None:
    rules, mine = agreed(nodes, None), written(tmp_path, issued(nodes[0]))
    refused(UsageError, "names no coordinator", nodes[0], tmp_path, rules, mine)
    join(nodes[0], tmp_path, rules, None)
    assert nodes[0].charter == rules


WRONG: dict[str, tuple[dict[str, Any], type[FedwardError], str]] = {
    "another hospital's": ({"site": "H2"}, PolicyError, "is that of 'H2', not of H1"),
    "another key": ({"key": ec.derive_private_key(5, ec.SECP384R1()).public_key()}, PolicyError, "is for another key"),
    "another curve": (
        {"key": ec.derive_private_key(5, ec.SECP256R1()).public_key()},
        PolicyError,
        "is for another key",
    ),
    "another authority": ({"by": OTHERS}, PolicyError, "comes from the authority"),
    "signed by another": ({"by": OTHERS, "shown": OURS}, ProtocolError, "was not issued by the authority"),
    "expired": ({"now": datetime.now(UTC) - timedelta(days=731)}, ProtocolError, "the certificate expired on"),
    "not yet": ({"now": datetime.now(UTC) + timedelta(days=2)}, ProtocolError, "the certificate holds from"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_certificate_that_is_not_this_hospitals_is_not_kept(nodes: list[Node], tmp_path: Path, case: str) -> None:
    changes, kind, words = WRONG[case]
    refused(kind, words, nodes[0], tmp_path, agreed(nodes), written(tmp_path, issued(nodes[0], **changes)))


def test_a_gates_certificate_is_no_hospitals(nodes: list[Node], tmp_path: Path) -> None:
    gate = LinkCertificate(OURS.server(public(nodes[0]), "H1", ["localhost"]), OURS.certificate)
    refused(ProtocolError, "is not one for a hospital", nodes[0], tmp_path, agreed(nodes), written(tmp_path, gate))


def test_what_is_no_certificate_is_told(nodes: list[Node], tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_bytes(pem(issued(nodes[0]).own))
    refused(UsageError, "does not hold 2 certificates", nodes[0], tmp_path, agreed(nodes), tmp_path / "x.pem")
    refused(UsageError, "cannot read", nodes[0], tmp_path, agreed(nodes), tmp_path / "none.pem")


def test_a_key_that_others_may_read_is_no_key_to_connect_with(nodes: list[Node], tmp_path: Path) -> None:
    path = written(tmp_path, issued(nodes[0]))
    nodes[0].link_key.chmod(0o640)
    for certificate in (path, None):
        hint = refused(PolicyError, "others may read the key", nodes[0], tmp_path, agreed(nodes), certificate)
        assert "chmod 600" in hint


def test_a_renewed_certificate_takes_the_place_of_the_one_before(nodes: list[Node], tmp_path: Path) -> None:
    rules, first, second = agreed(nodes), issued(nodes[0]), issued(nodes[0])
    join(nodes[0], tmp_path, rules, written(tmp_path, first))
    entries = len(toy.log_rows(nodes[0].folder))
    told = join(nodes[0], tmp_path, rules, written(tmp_path, second))
    assert "has pinned this charter already" in told
    assert LinkCertificate.stored(nodes[0]) == second
    assert [row["action"] for row in toy.log_rows(nodes[0].folder)[entries:]] == ["link.certificate"] * 2
    assert "already" in join(nodes[0], tmp_path, rules, None)
    assert LinkCertificate.stored(nodes[0]) == second


def test_the_certificate_that_is_kept_serves_a_new_charter_of_the_same_authority_alone(
    nodes: list[Node], tmp_path: Path
) -> None:
    mine = issued(nodes[0])
    join(nodes[0], tmp_path, agreed(nodes), written(tmp_path, mine))
    following = agreed(nodes, seed=4)
    join(nodes[0], tmp_path, following, None, "--replace")
    assert nodes[0].charter == following
    elsewhere = agreed(nodes, dataclasses.replace(PLAN, authority=digest(OTHERS.certificate)))
    with pytest.raises(
        UsageError, match="has no certificate for the coordinator imaging-1: the certificate comes from"
    ):
        join(nodes[0], tmp_path, elsewhere, None, "--replace")
    assert nodes[0].charter == following
    assert LinkCertificate.stored(nodes[0]) == mine


def test_a_certificate_that_cannot_be_kept_pins_nothing(nodes: list[Node], tmp_path: Path) -> None:
    nodes[0].link.write_text("a file in the folder's place")
    with pytest.raises(OutputError, match="cannot write"):
        join(nodes[0], tmp_path, agreed(nodes), written(tmp_path, issued(nodes[0])))
    assert not (nodes[0].folder / "charter.toml").exists()
    assert toy.log_rows(nodes[0].folder)[-1]["outcome"] == "failed"


def test_a_virtual_hospital_connects_to_nobody_and_needs_none(tmp_path: Path) -> None:
    node = Node.create(tmp_path / "v", site="H1", purpose=toy.PURPOSE, seed=7)
    others = [Node.create(tmp_path / f"v{n}", site=f"H{n}", purpose=toy.PURPOSE, seed=7) for n in (2, 3)]
    rules = agreed([node, *others])
    certificate = LinkCertificate(
        OURS.client(ec.derive_private_key(5, ec.SECP384R1()).public_key(), "H1"), OURS.certificate
    )
    refused(PolicyError, "is a virtual hospital", node, tmp_path, rules, written(tmp_path, certificate))
    join(node, tmp_path, rules, None)
    assert node.charter == rules


def test_a_release_that_the_charter_does_not_list_does_not_join(nodes: list[Node], tmp_path: Path) -> None:
    mine = written(tmp_path, issued(nodes[0]))
    stranger = agreed(nodes, masks={"apps": ("ab" * 32,)})
    refused(PolicyError, "is not among the apps", nodes[0], tmp_path, stranger, mine)
    join(nodes[0], tmp_path, agreed(nodes, masks={"apps": ("ab" * 32, release())}), mine)
    assert nodes[0].certificate.exists()
