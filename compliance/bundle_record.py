"""Who may sign for a release, and the checkpoints in it: whose logs they are of, and which hospitals witnessed them."""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from pydantic import ValidationError

from compliance.bundle_form import (
    AUTHORITY,
    CHECKPOINT,
    ENDORSEMENT,
    ENTRY,
    WEIGHTS,
    EntryForm,
    checkpoint_file,
    endorsement_file,
    statement_file,
)
from compliance.bundle_report import Given
from compliance.checkpoint import Quorum, satisfied
from compliance.endorse import Endorsement, coordinator_origin, origins, site_origin, vouched
from compliance.log import Action, Outcome
from compliance.verify import (
    Checkpoint,
    Key,
    Note,
    cosigners,
    leaf_hash,
    root_from_inclusion,
    signed_checkpoint,
)
from shared.certificates import check_authority, digest
from shared.charter import Charter
from shared.errors import ProtocolError, RecordError
from shared.files import canonical_json
from shared.parsing import parse_json
from shared.statement import Statement


@dataclass(frozen=True)
class Keys:
    """Who may sign for what, by the charter and the endorsements.

    Attributes:
        signer: The coordinator's log key; None where nothing vouches for it.
        sites: The witness keys of the hospitals.
        logs: The log keys of the hospitals, by origin.
    """

    signer: Key | None
    sites: tuple[Key, ...]
    logs: Mapping[str, Key]


def keys_of(given: Given, rules: Charter, statements: tuple[Statement, ...]) -> Keys:
    """Whom the charter, and what its parties endorsed, let sign; at the time of the release."""
    report, moment, names = given.report, given.manifest.moment, origins(rules)
    authority = report.attempt(AUTHORITY, lambda: _authority(given, rules))
    if authority is not None:
        report.ok(AUTHORITY, "the certificate whose SHA-256 stands in the charter")
    raws = {ENDORSEMENT: given.files.get(ENDORSEMENT, b"")}
    raws |= {name: raw for name, raw in given.files.items() if name.startswith("endorsements/")}
    raws |= {statement_file(one.site): canonical_json(dict(one.endorsement)) for one in statements if one.endorsement}
    sound = []
    for name, raw in sorted(raws.items()):

        def checked(name: str = name, raw: bytes = raw) -> Endorsement:
            one = Endorsement.parse(raw, name)
            owner = names.get(one.origin)
            if owner is None:
                raise RecordError(f"it endorses a key of {one.origin}, of whom the charter says nothing")
            if name.startswith("endorsements/") and name != endorsement_file(owner):
                raise RecordError(f"it is the endorsement of {owner}")
            if canonical_json(one.as_json()) != raw:
                raise RecordError("it is not in canonical form")
            vouched(rules, [one], authority, now=moment)
            return one

        if (one := report.attempt(name, checked)) is not None:
            sound.append(one)
    found = vouched(rules, sound, authority, now=moment)
    plan = rules.coordinator
    own = "" if plan is None else coordinator_origin(plan.name, plan.authority)
    signer = found.logs.get(own)
    if signer is not None:
        report.ok(ENDORSEMENT, f"the authority vouches for the log key of {own}")
    return Keys(signer, found.sites, {name: key for name, key in found.logs.items() if name != own})


def _authority(given: Given, rules: Charter) -> x509.Certificate:
    try:
        found = x509.load_pem_x509_certificates(given.need(AUTHORITY))
    except ValueError as error:
        raise RecordError("is no certificate (PEM)") from error
    if len(found) != 1 or rules.coordinator is None or digest(found[0]) != rules.coordinator.authority:
        raise ProtocolError("is not the certificate whose SHA-256 stands in the charter")
    check_authority(found[0], now=given.manifest.moment)
    return found[0]


def check_checkpoint(given: Given, keys: Keys, quorum: int) -> None:
    """The coordinator's log, and which hospitals had witnessed it."""
    record, report = given.manifest.record, given.report

    def checked() -> str:
        if keys.signer is None:
            raise RecordError("nothing vouches for the key that signed it")
        note = Note.parse(given.need(CHECKPOINT))
        found = signed_checkpoint(note, keys.signer)
        if (found.origin, found.size) != (record.origin, record.size):
            raise RecordError("it is not the checkpoint that the manifest names")
        if quorum:
            enough, words = satisfied(note, Quorum(keys.sites, quorum))
            if not enough:
                raise RecordError(words)
        seen = ", ".join(sorted(cosigners(note, keys.sites))) or "no hospital"
        return f"{found.size} entries of the log {found.origin}, cosigned by {seen}"

    if (words := report.attempt(CHECKPOINT, checked)) is None:
        return
    report.ok(CHECKPOINT, words)
    if not quorum:
        report.leave(CHECKPOINT, "whether hospitals have witnessed the log: you asked for no quorum")
    if record.entry is None:
        report.leave(ENTRY, "whether the witnessed log has an entry about the model: there is no proof of one")
    elif report.attempt(ENTRY, lambda: _check_entry(given)) is not None:
        report.ok(ENTRY, f"entry {record.entry} of that log says that this model was written in this run")


def _check_entry(given: Given) -> bool:
    """The entry about the model stands in the log whose head was checked (RFC 9162, section 2.1.3).

    Raises:
        RecordError, NotVerifiedError: It does not, or is about something else.
    """
    manifest, raw = given.manifest, given.need(ENTRY)
    try:
        form = EntryForm.model_validate_json(raw)
        row = parse_json(form.line)
        facts = (row["action"], row["outcome"], row["run"], row["subject"]["digest"])
        about = facts, (row["detail"]["task"], row["detail"]["sha256"])
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise RecordError("it is no entry with its proof") from error
    weights = manifest.files.get(WEIGHTS)
    wanted = (Action.MODEL_WRITE.value, Outcome.OK.value, manifest.run, manifest.model.digest)
    if about != (wanted, (manifest.task, weights.sha256 if weights else "")):
        raise RecordError("it is an entry about something else")
    head = Checkpoint.parse(Note.parse(given.need(CHECKPOINT)).text)
    leaf, proof = leaf_hash(form.line.encode()), [bytes.fromhex(one) for one in form.proof]
    if root_from_inclusion(manifest.record.entry or 0, head.size, leaf, proof) != head.root:
        raise RecordError("the log of the checkpoint has no such entry")
    return True


def check_site_checkpoint(one: Statement, given: Given, rules: Charter, keys: Keys, quorum: int) -> None:
    """The checkpoint in a statement. Too few witnesses are said and refuse nothing: the hospital cannot make them."""
    name, report = checkpoint_file(one.site), given.report
    if not one.checkpoint:
        if name in given.files:
            report.fail(name, f"the statement of {one.site} has no checkpoint")
        else:
            report.leave(name, f"{one.site} gave no checkpoint of its audit log")
        return

    def checked() -> tuple[str, int]:
        if given.need(name) != one.checkpoint.encode():
            raise RecordError(f"it is not the checkpoint in the statement of {one.site}")
        identity = next(member.identity for member in rules.members if member.name == one.site)
        key = keys.logs.get(site_origin(one.site, bytes.fromhex(identity)))
        if key is None:
            raise RecordError(f"{one.site} vouches for no log key")
        note = Note.parse(given.files[name])
        found, seen = signed_checkpoint(note, key), sorted(cosigners(note, keys.sites))
        return f"{found.size} entries of the log of {one.site}, cosigned by {', '.join(seen) or 'nobody'}", len(seen)

    if (found := report.attempt(name, checked)) is not None:
        report.ok(name, found[0])
        if found[1] < quorum:
            report.leave(name, f"{found[1]} of {quorum} hospitals have witnessed it")
