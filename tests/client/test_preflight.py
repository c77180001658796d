"""``fedward node check``: what is wrong is found and named, with what to do; what is well is not complained of."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from client import preflight as module
from client import preflight_link
from client.budget import set_budget
from client.charge import Budget
from client.cli import app
from client.consenting import set_basis, withdraw
from client.lineage import Lineage
from client.node import Node
from client.preflight import CHECKS, Finding, Verdict, exit_code, preflight
from shared import bundle, certificates
from shared.certificates import Authority
from shared.charter import Charter
from shared.charter_plans import CoordinatorPlan
from shared.errors import UsageError
from shared.link_keys import read_key
from tests.client import gate as gates
from tests.federation import toy
from tests.federation.members import invented, masked, member

PRIVATE = {"mode": "patient", "noise_multiplier": 4.0, "sample_rate": 0.2}


@dataclass
class Ready:
    """A hospital that is ready to take part, as far as it can be told without the coordinator."""

    node: Node
    signer: Authority
    charter: Charter

    @property
    def folder(self) -> Path:
        return self.node.folder

    def agree(self, **changes: object) -> "Ready":
        """Pin the charter with changes."""
        self.charter = replace(self.charter, **changes)  # type: ignore[arg-type]
        self.node.pin(self.charter)
        return self

    def at(self, address: str) -> "Ready":
        plan = CoordinatorPlan("center", address, certificates.digest(self.signer.certificate))
        return self.agree(coordinator=plan)

    def certify(self, signer: Authority | None = None, now: datetime | None = None, *, key: object = None) -> None:
        public = (read_key(self.node.link_key) if key is None else key).public_key()  # type: ignore[attr-defined]
        made = (signer or self.signer).client(public, self.node.site, now=now)
        self.node.certificate.write_bytes(certificates.pem(made))

    def look(self, *, offline: bool = True, timeout: float = 5.0) -> dict[str, Finding]:
        return {one.check: one for one in preflight(self.node, offline=offline, timeout=timeout)}


@pytest.fixture
def ready(tmp_path: Path) -> Ready:
    folder = tmp_path / "node"
    toy.make_node(tmp_path / "toy", "H1", toy.charter(), patients=4)
    node = Node.create(folder, site="H1", purpose=toy.PURPOSE)
    shutil.copytree(tmp_path / "toy" / "cohort", folder / "cohort")
    node.link.mkdir(mode=0o700)
    signer = gates.authority()
    node.authority.write_bytes(certificates.pem(signer.certificate))
    rules = masked((member(node), *invented(5)[1:4]), 3, {}, privacy=PRIVATE)
    set_budget(node, Budget(100.0, 1e-5, 4), who="Ada", why="a test")
    toy.with_basis(folder)
    made = Ready(node, signer, rules).at("fl.example.org:9443")
    made.certify()
    return made


def failed(findings: dict[str, Finding]) -> set[str]:
    return {name for name, one in findings.items() if one.verdict is Verdict.FAIL}


def warned(findings: dict[str, Finding]) -> set[str]:
    return {name for name, one in findings.items() if one.verdict is Verdict.WARN}


def test_a_hospital_that_is_ready_hears_so(ready: Ready, tmp_path: Path) -> None:
    with gates.gate(tmp_path / "gate", ready.signer) as address:
        found = ready.at(address).look(offline=False)
    assert not failed(found), found
    assert not warned(found), found
    assert found["consent"].what == "basis of the data set: GDPR 6(1)(e), 9(2)(j); 5 of 5 patients take part"
    assert list(found) == list(CHECKS)
    assert exit_code(found.values()) == 0
    assert found["cohort"].what == "patients in training: toy 4; 1 held out"
    assert "answers, TLS 1.3" in found["connection"].what


def test_what_is_wrong_comes_with_what_to_do(ready: Ready) -> None:
    shutil.rmtree(ready.folder / "keys")
    for one in ready.look().values():
        assert one.what
        assert "\n" not in one.what + one.mend
        assert bool(one.mend) is (one.verdict is not Verdict.OK), one
        assert bool(one.exit_code) is (one.verdict is Verdict.FAIL), one


def test_what_cannot_be_asked_is_said_not_to_have_been(ready: Ready) -> None:
    (ready.folder / "charter.toml").unlink()
    found = ready.look(offline=False)
    assert failed(found) == {"charter"}
    assert "has pinned no charter" in found["charter"].what
    assert (found["connection"].what, found["consent"].mend) == ("not looked at", "mend 'charter' first")


# --- the hospital's own -----------------------------------------------------------------------------------------------


def test_a_hospital_that_recorded_no_basis_and_no_consent_hears_what_to_do(ready: Ready) -> None:
    set_basis(ready.node, None)
    found = ready.look()
    assert failed(found) == {"consent"}
    assert "no lawful basis" in found["consent"].what
    assert "fedward node basis set" in found["consent"].mend
    assert found["cohort"].mend == "mend 'consent' first"
    assert exit_code(found.values()) == 6


def test_who_is_left_out_is_counted_and_a_lost_register_is_a_failure(ready: Ready) -> None:
    withdraw(ready.node, "PATIENT-H1-0")
    found = ready.look()["consent"]
    assert (found.verdict, "4 of 5 patients take part (1 withdrawn)" in found.what) == ("ok", True)
    (ready.folder / "rights" / "records.json").unlink()
    assert ready.look()["consent"].exit_code == 9


def test_a_test_patient_who_was_trained_on_is_a_failure(ready: Ready) -> None:
    sets, lineage = ready.folder / "rights" / "sets", Lineage(ready.node)
    sets.mkdir()
    for side in ("train", "evaluate"):
        (sets / f"{lineage.name(side, ['PATIENT-H1-0'])}.json").write_text('["PATIENT-H1-0"]')
    assert "1 test patients were trained on" in ready.look()["cohort"].what


def test_keys_that_others_may_read(ready: Ready) -> None:
    (ready.folder / "keys" / "link.key").chmod(0o644)
    found = ready.look()
    assert "others may read the key" in found["keys"].what
    assert "chmod 600" in found["keys"].mend
    assert exit_code(found.values()) == 6


@pytest.mark.parametrize(("mode", "verdict"), [(0o700, "ok"), (0o755, "warn"), (0o770, "fail"), (0o777, "fail")])
def test_a_folder_that_others_may_look_into_or_write_in(ready: Ready, mode: int, verdict: str) -> None:
    ready.folder.chmod(mode)
    assert ready.look()["permissions"].verdict == verdict


def test_an_audit_log_that_was_altered(ready: Ready) -> None:
    log = ready.folder / "audit" / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"Ada", b"Eve"))
    assert ready.look()["record"].exit_code == 9


def test_a_charter_in_which_somebody_else_has_the_name(ready: Ready) -> None:
    ready.agree(members=invented(4))
    found = ready.look()
    assert "with another key" in found["charter"].what
    assert exit_code(found.values()) == 6


def test_a_release_that_the_charter_does_not_list(ready: Ready) -> None:
    assert ready.charter.masking
    ready.agree(masking=replace(ready.charter.masking, apps=("0" * 64,)))
    assert "release" in failed(ready.look())
    ready.agree(masking=replace(ready.charter.masking, apps=("0" * 64, bundle.digest())))
    assert ready.look()["release"].what.endswith("listed in the charter")


def test_a_policy_that_forbids_the_charter(ready: Ready) -> None:
    (ready.folder / "policy.toml").write_text('tasks = ["denoise"]')
    found = ready.look()
    assert "does not allow the task toy" in found["policy"].what
    assert str(ready.folder / "policy.toml") in found["policy"].mend
    assert exit_code(found.values()) == 6


@pytest.mark.parametrize("text", ["min_patient = 5", "tasks = [", 'device = {use = "gpu"}'])
def test_a_policy_with_a_typo_is_told_once_and_what_reads_it_waits(ready: Ready, text: str) -> None:
    (ready.folder / "policy.toml").write_text(text)
    found = ready.look()
    assert [name for name, one in found.items() if "policy.toml" in one.what] == ["policy"]
    for name in ("cohort", "device", "witnesses"):
        assert (found[name].verdict, found[name].mend) == (Verdict.WARN, "mend 'policy' first"), name
    assert exit_code(found.values()) == 6


@pytest.mark.parametrize(("declared", "warned"), [(1, True), (2, False), (8, False), (9, True), (200, True)])
def test_a_declared_number_far_from_the_cohort_is_a_warning(ready: Ready, declared: int, warned: bool) -> None:
    set_budget(ready.node, Budget(100.0, 1e-5, declared), who="Ada", why="a test")
    found = ready.look()["budget"]
    assert (found.verdict is Verdict.WARN) is warned
    assert (f"the {declared} patients that the budget declares, and 4 may train here" in found.what) is warned


def test_no_budget_and_one_that_does_not_last(ready: Ready) -> None:
    set_budget(ready.node, Budget(0.2, 1e-5, 20), who="Ada", why="a test")
    found = ready.look()["budget"]
    assert (found.verdict, "of 3 rounds" in found.what) == (Verdict.WARN, True)
    shutil.rmtree(ready.folder / "privacy")
    (ready.folder / "audit" / "log.jsonl").unlink()
    assert "has set no privacy budget" in ready.look()["budget"].what


# --- patients ---------------------------------------------------------------------------------------------------------


def test_too_few_patients_by_the_charter_and_by_the_policy(ready: Ready) -> None:
    (ready.folder / "policy.toml").write_text("min_patients = 5")
    found = ready.look()["cohort"]
    assert "toy 4; 5 are needed" in found.what
    assert found.mend == "take in more with 'fedward node ingest'"
    withdraw(ready.node, "PATIENT-H1-1")
    assert "1 patient in training may not take part (see consent)" in ready.look()["cohort"].mend
    (ready.folder / "policy.toml").unlink()
    ready.agree(min_patients=9)
    assert ready.look()["cohort"].exit_code == 4


def test_patients_whose_images_no_task_can_use_do_not_count(ready: Ready) -> None:
    index = ready.folder / "cohort" / "index.json"
    index.write_text(index.read_text().replace('"MR"', '"CT"'))
    assert "toy 0" in ready.look()["cohort"].what


def test_images_that_are_gone(ready: Ready) -> None:
    next((ready.folder / "cohort" / "images").iterdir()).unlink()
    assert "1 cached studies are gone" in ready.look()["cohort"].what


# --- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("small", ["node", "temporary"])
def test_a_disk_that_is_full(ready: Ready, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage

    def usage(path: Path) -> object:
        there = ready.folder in (path, *path.parents)
        return real(path)._replace(free=1000) if there is (small == "node") else real(path)

    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    found = ready.look()["disk"]
    assert (found.exit_code, "0 MiB are free" in found.what) == (5, True)
    assert ("TMPDIR" in found.mend) is (small == "temporary")


def test_a_gpu_that_is_named_and_not_there(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (ready.folder / "policy.toml").write_text('[device]\nuse = "cuda"\n')
    found = ready.look()["device"]
    assert (found.exit_code, "no such GPU" in found.what) == (UsageError.exit_code, True)


# --- the certificate --------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_authority_for_another_key_or_missing(ready: Ready, tmp_path: Path) -> None:
    ready.certify(gates.authority())
    assert "was not issued by the authority" in ready.look()["certificate"].what
    ready.certify(key=gates.authority().key)
    assert "for another key than" in ready.look()["certificate"].what
    ready.node.certificate.unlink()
    assert "cannot read" in ready.look()["certificate"].what
    ready.node.authority.write_bytes(certificates.pem(gates.authority().certificate))
    ready.certify()
    assert "comes from the authority" in ready.look()["certificate"].what


def test_a_certificate_that_ends_soon_and_one_that_has_ended(ready: Ready) -> None:
    old = gates.authority(now=datetime.now(UTC) - timedelta(days=900))
    ready.signer = old
    ready.node.authority.write_bytes(certificates.pem(old.certificate))
    ready.at("fl.example.org:9443").certify(now=datetime.now(UTC) - timedelta(days=certificates.LINK_DAYS - 10))
    found = ready.look()["certificate"]
    assert (found.verdict, "9 days" in found.what) == (Verdict.WARN, True)
    ready.certify(now=datetime.now(UTC) - timedelta(days=certificates.LINK_DAYS + 2))
    assert "expired on" in ready.look()["certificate"].what


def test_a_charter_without_a_coordinator_needs_no_certificate(ready: Ready) -> None:
    ready.node.certificate.unlink()
    found = ready.agree(coordinator=None).look(offline=False)
    assert not failed(found)
    assert "names no coordinator" in found["connection"].what


# --- the connection ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """Something at the other end, and the words for it."""

    end: AbstractContextManager[str]
    words: str
    mend: str


def trouble(kind: str, ready: Ready, folder: Path) -> Wrong:
    own, other = ready.signer, gates.authority()
    address = "the coordinator"
    match kind:
        case "refused":
            return Wrong(nullcontext(gates.nobody()), "nobody listens", "firewall")
        case "silent":
            return Wrong(gates.silent(), "no answer in time", "firewall")
        case "name":
            return Wrong(nullcontext("fl.invalid:9443"), "cannot be resolved", "name service")
        case "no TLS":
            return Wrong(gates.plain(), "speaks no TLS", "unopened")
        case "another authority":
            return Wrong(gates.gate(folder, other, own), "not of the authority that the charter names", "unopened")
        case "another name":
            return Wrong(gates.gate(folder, own, hosts=("other.example",)), "for another address", "--also")
        case "expired":
            past = datetime.now(UTC) - timedelta(days=certificates.LINK_DAYS + 10)
            return Wrong(gates.gate(folder, own, now=past), "does not hold today", "date")
        case "our certificate":
            return Wrong(gates.gate(folder, own, other), "does not take this hospital's certificate", "approve")
        case "no member":
            return Wrong(gates.gate(folder, own, status=403), "does not let this node in", address)
        case _:
            return Wrong(gates.gate(folder, own, status=404), "no coordinator at this address", "compare")


@pytest.mark.parametrize(
    "kind",
    [
        *("refused", "silent", "name", "no TLS", "another authority", "another name", "expired"),
        *("our certificate", "no member", "another service"),
    ],
)
def test_each_trouble_on_the_way_has_words_of_its_own(ready: Ready, tmp_path: Path, kind: str) -> None:
    wrong = trouble(kind, ready, tmp_path / "gate")
    with wrong.end as address:
        found = ready.at(address).look(offline=False, timeout=1.0)
    assert failed(found) == {"connection"}
    assert wrong.words in found["connection"].what
    assert address in found["connection"].what
    assert wrong.mend in found["connection"].mend
    assert exit_code(found.values()) == 8


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in [name for name in os.environ if name.lower() in {"https_proxy", "all_proxy", "no_proxy"}]:
        monkeypatch.delenv(name)
    yield monkeypatch


def test_a_proxy_that_opens_tls_one_that_refuses_and_one_that_does_neither(
    ready: Ready, tmp_path: Path, proxied: pytest.MonkeyPatch
) -> None:
    with gates.gate(tmp_path / "false", gates.authority(), ready.signer) as false, gates.proxy(false) as opens:
        proxied.setenv("HTTPS_PROXY", f"http://user:secret@{opens}")
        found = ready.at("198.51.100.7:9443").look(offline=False)["connection"]
        assert "something between opens TLS, such as the proxy" in found.what
        assert (f"through the proxy {opens}" in found.what, "secret" in found.what) == (True, False)
    with gates.proxy(None) as refuses:
        proxied.setenv("HTTPS_PROXY", f"http://{refuses}")
        assert "proxy does not let this through" in ready.look(offline=False)["connection"].what
    with gates.gate(tmp_path / "true", ready.signer) as true, gates.proxy(true) as passes:
        proxied.setenv("HTTPS_PROXY", f"http://{passes}")
        found = ready.at(true).look(offline=False)["connection"]
        assert f"answers through the proxy {passes}" in found.what
        proxied.setenv("NO_PROXY", gates.HOST)
        assert "proxy" not in ready.look(offline=False)["connection"].what


@pytest.mark.parametrize(
    ("gate_ahead", "verdict", "said"),
    [
        (0, "ok", "s "),
        (-3.4, "warn", "s ahead of the coordinator's"),
        (-10, "fail", "s ahead of the coordinator's, which takes 5 s ahead"),
        (20, "warn", "s behind the coordinator's"),
        (400, "fail", "305 s behind at most"),
    ],
)
def test_a_clock_that_differs(ready: Ready, tmp_path: Path, gate_ahead: float, verdict: str, said: str) -> None:
    with gates.gate(tmp_path / "gate", ready.signer, ahead=gate_ahead) as address:
        found = ready.at(address).look(offline=False)
    assert found["clock"].verdict == verdict, found["clock"]
    assert said in found["clock"].what
    assert exit_code(found.values()) == (8 if verdict == "fail" else 0)


def test_a_clock_that_nobody_could_be_asked_about_is_no_failure(ready: Ready) -> None:
    found = ready.at(gates.nobody()).look(offline=False)
    assert found["clock"].verdict is Verdict.WARN


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_a_line_for_each_and_exits_with_the_gravest(ready: Ready) -> None:
    good = CliRunner().invoke(app, ["check", str(ready.folder), "--offline"])
    assert good.exit_code == 0, good.output
    lines = good.stdout.splitlines()
    assert [line.split()[1] for line in lines] == [name for name, one in CHECKS.items() if not one.online]
    assert {line.split()[0] for line in lines} == {"ok"}
    ready.at(gates.nobody())
    bad = CliRunner().invoke(app, ["check", str(ready.folder), "--json"])
    told = json.loads(bad.stdout)
    assert (bad.exit_code, told["ready"]) == (8, False)
    assert next(one for one in told["findings"] if one["check"] == "connection")["verdict"] == "fail"


@pytest.mark.parametrize(("codes", "status"), [((0, 0), 0), ((8, 6), 6), ((9, 8), 8), ((4, 9), 9), ((5, 4), 5)])
def test_the_exit_status(codes: tuple[int, ...], status: int) -> None:
    assert exit_code(Finding("x", Verdict.FAIL if code else Verdict.OK, "", "", code) for code in codes) == status


def test_every_check_stands_on_the_page_and_no_other() -> None:
    assert preflight_link.check is module.check, "it registers some of them"
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(CHECKS)
