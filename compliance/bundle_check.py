"""Check a released model offline: every file, who signed for it, what hospitals state of it, and the weights.

Nothing but the files of the folder is read. Each is read once, and what was read is what is checked. The trust begins
at the charter: its SHA-256 is what a reader has to have from somebody else than the sender.
"""

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from compliance.bundle_form import (
    CHARTER,
    ENTRY,
    MANIFEST,
    REQUIRED,
    SIGNATURE,
    ManifestForm,
    checkpoint_file,
    read_manifest,
    release_text,
    site_row,
    statement_file,
)
from compliance.bundle_model import check_model
from compliance.bundle_record import Keys, check_checkpoint, check_site_checkpoint, keys_of
from compliance.bundle_report import Given, Report
from compliance.checkpoint import LEAST, majority
from compliance.verify import Note
from shared.charter import Charter
from shared.errors import RecordError, UsageError
from shared.files import canonical_json
from shared.statement import Statement

MOST_BYTES: Final = 2**33
"""Of all files together."""
NOT_SHOWN: Final = (
    "that the model is fit for any use, and that figures and statements are true: they are what their authors say",
    "that this is the newest release: an older one verifies as well",
    "what was done without an entry in an audit log, and what all signers together hide",
)


def check_bundle(folder: Path, *, charter: str = "", quorum: int | None = None) -> Report:
    """Check the release in ``folder``.

    Args:
        folder: The release.
        charter: SHA-256 of the charter, or its first 32 digits or more, in lower case, as somebody else than the sender
            told it; empty leaves that comparison to the reader.
        quorum: So many hospitals must have cosigned the checkpoint of the coordinator's log; 0 asks for none, None for
            over half of the charter's hospitals, and two at least.

    Raises:
        UsageError: It is no release.
    """
    report = Report()
    files = _read(folder, report)
    if MANIFEST not in files and SIGNATURE not in files:
        raise UsageError(f"{folder} is no released model: it has no {MANIFEST}", hint="name the folder of a release")
    if MANIFEST not in files:
        report.fail(MANIFEST, "is missing")
        manifest = None
    else:
        report.manifest = hashlib.sha256(files[MANIFEST]).hexdigest()
        manifest = report.attempt(MANIFEST, lambda: read_manifest(files[MANIFEST]))
    if manifest is None:
        report.leave("everything else", f"there is no {MANIFEST} to check it against")
        return report
    given = Given(manifest, files, report)
    _check_files(given)
    rules = _charter(given, charter)
    if rules is None:
        report.leave("signature, statements and checkpoints", "there is no charter that says who may sign")
    else:
        statements = _statements(given, rules)
        keys = keys_of(given, rules, statements)
        _check_signature(given, keys)
        sites = len(rules.members)
        check_checkpoint(given, keys, max(LEAST, majority(sites)) if quorum is None else quorum)
        for one in statements:
            others = max(LEAST, majority(sites - 1)) if quorum is None else quorum
            check_site_checkpoint(one, given, rules, keys, others)
    check_model(manifest, files, report)
    for line in NOT_SHOWN:
        report.leave("beyond any check", line)
    return report


def _read(folder: Path, report: Report) -> dict[str, bytes]:
    """Every file by its path; whatever is no plain file is a fault."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="name the folder of a release")
    files, left = dict[str, bytes](), MOST_BYTES
    try:
        for path in _walk(folder):
            name, found = path.relative_to(folder).as_posix(), path.lstat()
            if not stat.S_ISREG(found.st_mode):
                report.fail(name, "is no plain file")
            elif found.st_size > left:
                report.fail(name, "is too large")
            else:
                files[name] = path.read_bytes()
                left -= len(files[name])
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}", hint="copy the release anew") from error
    return files


def _walk(folder: Path, depth: int = 3) -> Iterator[Path]:
    """What lies in ``folder``; a release is two folders deep, and what is deeper is one thing that does not belong."""
    for path in sorted(folder.iterdir()):
        if depth and path.is_dir() and not path.is_symlink():
            yield from _walk(path, depth - 1)
        else:
            yield path


def _check_files(given: Given) -> None:
    manifest, files, report = given.manifest, given.files, given.report
    faults = len(report.failed)
    for name in sorted(REQUIRED - manifest.files.keys()):
        report.fail(name, f"{MANIFEST} does not list it")
    for name, form in sorted(manifest.files.items()):
        if name not in files:
            report.fail(name, "is missing")
        elif (len(files[name]), hashlib.sha256(files[name]).hexdigest()) != (form.bytes, form.sha256):
            report.fail(name, "is not the file that was released: its SHA-256 is another one")
    for name in sorted(files.keys() - manifest.files.keys() - {MANIFEST, SIGNATURE}):
        report.fail(name, "does not belong to the release")
    for name in sorted(manifest.files.keys() - REQUIRED - {ENTRY}):
        if "/" not in name:
            report.leave(name, "it belongs to the release, and this check does not know what it is")
    if len(report.failed) == faults:
        report.ok("files", f"{len(manifest.files)} files have their SHA-256, and there is no other")


def _charter(given: Given, heard: str) -> Charter | None:
    """The charter, compared with what the reader was told; None where it is none of the release."""
    manifest, report = given.manifest, given.report

    def parsed() -> Charter:
        try:
            rules = Charter.parse(given.need(CHARTER).decode(), source=CHARTER)
        except UnicodeDecodeError as error:
            raise RecordError(f"{CHARTER} is not UTF-8") from error
        if (rules.id, rules.sha256) != (manifest.federation, manifest.charter):
            raise RecordError(f"{MANIFEST} names the charter {manifest.charter}, and this is {rules.sha256}")
        if rules.coordinator is None:
            raise RecordError("the charter names no coordinator, so nobody could sign a release under it")
        rules.task(manifest.task)
        return rules

    rules = report.attempt(CHARTER, parsed)
    if rules is None:
        return None
    report.charter = rules.sha256
    for fault in disagreements(manifest, rules):
        report.fail(MANIFEST, fault)
    if not heard:
        report.leave(CHARTER, f"compare its SHA-256 with what a member tells you: {rules.sha256}")
    elif len(heard) >= 32 and rules.sha256.startswith(heard):
        report.ok(CHARTER, f"SHA-256 {rules.sha256}, as you gave it")
    else:
        report.fail(CHARTER, f"its SHA-256 is {rules.sha256}, not the one that you gave")
    return rules


def disagreements(manifest: ManifestForm, rules: Charter) -> Iterator[str]:
    """What a manifest says of the training that its charter does not."""
    plan = rules.task(manifest.task)
    agreed = {
        "start": plan.start,
        "trained": plan.trained,
        "aggregation": "plain" if rules.masking is None else "masked",
    }
    for name, value in agreed.items():
        said = getattr(manifest.model, name)
        if said != value:
            yield f"says {name} = {said!r}, and the charter {value!r}"


def _statements(given: Given, rules: Charter) -> tuple[Statement, ...]:
    """The statements that hold."""
    manifest, files, report = given.manifest, given.files, given.report
    rows = {str(row.get("site")): row for row in manifest.sites}
    found = []
    for name in sorted(one for one in files if one.startswith("statements/")):

        def checked(name: str = name) -> Statement:
            statement = Statement.parse(files[name], name)
            statement.check(rules, manifest.run)
            if name != statement_file(statement.site):
                raise RecordError(f"it is the statement of {statement.site}")
            if canonical_json(rows.get(statement.site)) != canonical_json(site_row(statement, manifest.task)):
                raise RecordError(f"{MANIFEST} says something else of {statement.site}")
            return statement

        if (one := report.attempt(name, checked)) is not None:
            report.ok(name, f"signed with the identity key that the charter has of {one.site}; of this run")
            found.append(one)
    stated = {one.site for one in found}
    for name in sorted(one for one in files if one.startswith(checkpoint_file(""))):
        site = name.removeprefix(checkpoint_file(""))
        if statement_file(site) not in files:
            report.fail(name, "belongs to no statement")
        elif site not in stated:
            report.leave(name, "the statement that it belongs to does not hold")
    if len(rows) != len(manifest.sites):
        report.fail("statements", f"{MANIFEST} names a hospital twice")
    members = {member.name for member in rules.members}
    for site, row in rows.items():
        if site not in members:
            report.fail("statements", f"{MANIFEST} names a hospital that is no member of the charter")
        elif row == {"site": site, "statement": None}:
            report.leave(statement_file(site), "updates of this hospital are in the model, and it stated nothing")
        elif statement_file(site) not in files:
            report.fail(statement_file(site), "is missing")
    return tuple(found)


def _check_signature(given: Given, keys: Keys) -> None:
    report = given.report

    def checked() -> str:
        raw = given.need(SIGNATURE)
        if keys.signer is None:
            raise RecordError("nothing vouches for the key that signed it")
        note = Note.parse(raw)
        if note.text != release_text(given.need(MANIFEST)):
            raise RecordError(f"it is the signature of another {MANIFEST}")
        if len(note.signatures) != 1 or note.of(keys.signer) is None:
            raise RecordError(f"{MANIFEST} is not signed with the log key of {keys.signer.name}")
        return keys.signer.name

    if (name := report.attempt(SIGNATURE, checked)) is not None:
        report.ok(SIGNATURE, f"{name} signed {MANIFEST}, SHA-256 {report.manifest}")
