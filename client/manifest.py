"""The manifest of a hospital's data set: where it is from, on which basis, for what, how many, and the hashes of it.

``NODE/rights/manifest.json`` (0600). It is written after every ingest and erasure and whenever somebody asks for it,
and its digest stands in the audit log; every round quotes it in the lineage as long as it says what the cohort's index
says. Counts for others than the hospital are left out below a minimum (:data:`LEAST`), as suppressed and not as zero.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from client.eligible import reasons
from client.lineage import Lineage
from client.node import Node
from client.records import folder_of, read_register
from client.splits import Split
from compliance.log import Action, AuditLog, Entry, Outcome
from shared.errors import DataError, RecordError
from shared.files import canonical_json, private_folder, write_json
from shared.parsing import parse_json

if TYPE_CHECKING:
    from client.cohort import Cohort

FILE: Final = "manifest.json"
VERSION: Final = 1
LEAST: Final = 10
"""Patients in the smallest count that is shown to others."""
_ANEW: Final = "write it anew: fedward node dataset write NODE"
SUPPRESSED: Final = f"fewer than {LEAST}"


@dataclass(frozen=True)
class Manifest:
    """What a data set is.

    Attributes:
        body: All of it, as JSON has it.
    """

    body: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical form (RFC 8785)."""
        return hashlib.sha256(canonical_json(dict(self.body))).hexdigest()

    @property
    def index(self) -> str:
        """SHA-256 of the cohort's index that it was made from."""
        return str(self.body["cohort"]["index_sha256"])

    def for_others(self) -> dict[str, Any]:
        """Without what is the hospital's alone: no source's days and profile, and no small count."""
        counts = self.body["counts"]
        patients = {name: shown(int(counts[name])) for name in ("patients", "train", "held_out", "eligible")}
        kept = {name: self.body[name] for name in ("v", "site", "purpose", "basis", "written")}
        return kept | {"counts": patients, "manifest_sha256": self.digest}


def shown(count: int) -> int | str:
    """A count as others may see it; one that tells of few is suppressed, and rests are rounded down to tens."""
    return SUPPRESSED if count < LEAST else count - count % 10


def index_digest(node: Node) -> str:
    """SHA-256 of the cohort's index as it is now; empty where there is none."""
    try:
        return hashlib.sha256((node.folder / "cohort" / "index.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def read_manifest(node: Node) -> Manifest | None:
    """The manifest as it was written last; None where there is none.

    Raises:
        RecordError: It is damaged.
    """
    path = folder_of(node) / FILE
    try:
        body = parse_json(path.read_bytes())
        found = Manifest(body["manifest"])
        sound = body["sha256"] == found.digest and bool(found.index)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is damaged", hint=_ANEW) from error
    if not sound:
        raise RecordError(f"{path} was altered", hint=_ANEW)
    return found


def fresh(node: Node, found: Manifest, index: str) -> bool:
    """Whether a manifest says what is there now: the index with this digest, and the register as it is."""
    return (found.index, found.body["register_sha256"]) == (index, read_register(node)[1])


def current(node: Node, index: str, log: AuditLog | None = None) -> str:
    """The digest of the manifest if it says what is there now; else empty.

    Args:
        node: The hospital's node.
        index: Digest of the cohort's index.
        log: Its audit log: then one that is out of date is written anew. None leaves it as it is.

    Raises:
        RecordError: It is damaged, or cannot be recorded.
    """
    found = read_manifest(node)
    if found is None or fresh(node, found, index):
        return found.digest if found else ""
    return write_manifest(node, log).digest if log else ""


def make_manifest(node: Node, cohort: "Cohort", log: AuditLog | None = None) -> Manifest:
    """What the manifest says now.

    Raises:
        RecordError: The register or the lineage is damaged.
    """
    register, digest = read_register(node, log)
    default = register.default
    keys = [entry.key for entry in cohort.entries]
    why = reasons(keys, node, log=log)
    body: dict[str, Any] = {
        "v": VERSION,
        "site": node.site,
        "purpose": node.purpose,
        "written": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "basis": None
        if default is None
        else {
            "basis": str(default.basis),
            "purposes": list(default.purposes),
            "since": default.since.isoformat(),
            "until": default.until.isoformat() if default.until else None,
            "act": default.act,
        },
        "register_sha256": digest,
        "sources": _sources(Lineage(node)),
        "counts": {
            "patients": len(keys),
            **{split.value: len(cohort.patients(split)) for split in Split},
            "studies": sum(len(entry.studies) for entry in cohort.entries),
            "eligible": len(keys) - why.total(),
            "not_eligible": dict(sorted(why.items())),
            "modalities": dict(
                sorted(Counter(study.modality for entry in cohort.entries for study in entry.studies).items())
            ),
        },
        "cohort": {"index_sha256": index_digest(node), "root": root_of(cohort)},
    }
    return Manifest(body)


def root_of(cohort: "Cohort") -> str:
    """The root of a tree of hashes (RFC 6962 section 2.1) over all studies, in the order of their patients.

    A leaf is the canonical JSON of a patient's pseudonym, his side of the split, and a study's file with its SHA-256
    and that of what it was made from.
    """
    leaves = [
        {
            "patient": entry.key,
            "split": entry.split.value,
            **{name: getattr(one, name) for name in ("file", "sha256", "source")},
        }
        for entry in cohort.entries
        for one in entry.studies
    ]
    return _root([canonical_json(leaf) for leaf in leaves]).hex()


def write_manifest(node: Node, log: AuditLog) -> Manifest:
    """Write the manifest of the cohort as it is now: recorded, durable, recorded.

    Raises:
        DataError: There is no cohort.
        RecordError: The log or the register does not allow it.
        OutputError: The disk does not take it.
    """
    if not index_digest(node):
        raise DataError(f"{node.folder} holds no cohort", hint="fill it with 'fedward node ingest'")
    made = make_manifest(node, node.cohort, log)
    folder = folder_of(node)
    private_folder(folder)
    facts = {"manifest": made.digest, "index": made.index}
    with log.act(Entry(Action.DATASET_MANIFEST, Outcome.STARTED, detail=facts)):
        write_json(folder / FILE, {"sha256": made.digest, "manifest": dict(made.body)}, mode=0o600, durable=True)
    return made


def checked(node: Node, cohort: "Cohort") -> list[str]:
    """What of the cohort is not as its index says: studies that are gone or were changed, by the names of their files.

    Reads every cached study.
    """
    return [
        study.file
        for entry in cohort.entries
        for study in entry.studies
        if _sha256(node.folder / "cohort" / "images" / study.file) != study.sha256
    ]


def _sources(lineage: Lineage) -> list[dict[str, Any]]:
    """Where the studies came from: kind, profile, how many, and the first and the last day."""
    newest = {row["study"]: row for row in lineage.taken()}
    found: dict[tuple[str, str], list[str]] = {}
    for row in newest.values():
        found.setdefault((row["source"], row["profile"]), []).append(row["day"])
    return [
        {"source": source, "profile_sha256": profile, "studies": len(days), "first": min(days), "last": max(days)}
        for (source, profile), days in sorted(found.items())
    ]


def _root(leaves: list[bytes]) -> bytes:
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    if not level:
        return hashlib.sha256(b"").digest()
    while len(level) > 1:
        level = list(_joined(level))
    return level[0]


def _joined(level: list[bytes]) -> Iterable[bytes]:
    """The next level; an odd one at the end goes up as it is, which is the tree of RFC 6962."""
    for left, right in zip(level[::2], level[1::2], strict=False):
        yield hashlib.sha256(b"\x01" + left + right).digest()
    if len(level) % 2:
        yield level[-1]


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
