"""The folder of a member as the record sees it: a hospital's node or a coordinator, its log, its log key.

Both rooms know more of their folders than this. What the record needs is the same in both: ``keys/log.key``, the
endorsement beside the log, and who vouches for it (``keys/identity.key``, or ``keys/authority.key`` with
``authority.pem``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, ValidationError

from compliance.endorse import FILE, Endorsement, coordinator_origin, site_origin
from compliance.log import AuditLog
from compliance.note import LOG_KEY, Signer, make_log_key, read_log_key
from compliance.trail import LOG, Trail
from compliance.witness import FOLDER
from shared.certificates import digest, read
from shared.charter import Charter
from shared.errors import UsageError
from shared.files import locked, private_folder
from shared.link_keys import read_key

AUDIT: Final = "audit"
_LOCK: Final = "key.lock"
_PATIENCE: Final = 60.0  # seconds for which another process may be making the key
_HINT: Final = "name the folder of a node or a coordinator"


@dataclass(frozen=True)
class Place:
    """The folder of one member.

    Attributes:
        folder: Of the node or the coordinator.
        name: The site's, or the coordinator's.
        purpose: Why data is processed there (GDPR Art. 5(1)(b)); empty at a coordinator, whose runs have theirs.
        site: Whether it is a hospital's node.
    """

    folder: Path
    name: str
    purpose: str
    site: bool

    @classmethod
    def open(cls, folder: Path) -> "Place":
        """The member in ``folder``.

        Raises:
            UsageError: There is none, or its description is damaged.
        """
        for name, site in (("node.json", True), ("coordinator.json", False)):
            path = folder / name
            if not path.is_file():
                continue
            try:
                form = _Form.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise UsageError(f"{path} is damaged", hint="restore it from a copy") from error
            return cls(folder, form.site if site else form.name, form.purpose, site)
        raise UsageError(f"{folder} is not the folder of a member", hint=_HINT)

    @property
    def audit(self) -> Path:
        """The folder of its log."""
        return self.folder / AUDIT

    @property
    def log(self) -> Path:
        """Its log."""
        return self.audit / LOG

    @property
    def witness_folder(self) -> Path:
        """What it has witnessed of others."""
        return self.audit / FOLDER

    @property
    def endorsement(self) -> Endorsement:
        """What vouches for its log key.

        Raises:
            UsageError: There is none yet.
            ProtocolError: It is damaged.
        """
        return Endorsement.load(self.audit / FILE)

    @property
    def signer(self) -> Signer:
        """Its log key under the origin of its log.

        Raises:
            UsageError: There is none, or the endorsement is one of another key.
            PolicyError: Others may read the key.
        """
        found, path = self.endorsement, self.folder / "keys" / LOG_KEY
        signer = Signer(found.origin, read_log_key(path))
        if signer.public != found.log_key:
            raise UsageError(
                f"{self.audit / FILE} is the endorsement of another key than {path}", hint="endorse it again"
            )
        return signer

    @property
    def trail(self) -> Trail:
        """The checkpoints of its log, ready to publish.

        Raises:
            UsageError: There is no log key yet.
            PolicyError: Others may read it.
        """
        return Trail(self.audit, self.signer)

    def charter(self, path: Path | None = None) -> Charter:
        """The charter in ``path``, or the one that this node pinned.

        Raises:
            CharterError: There is none, or it is damaged.
        """
        return Charter.load(path or self.folder / "charter.toml")

    def open_log(self) -> AuditLog:
        """The log, to write to; close it.

        Raises:
            RecordError: It does not verify, or cannot be written.
            UsageError: The key of its digests is damaged.
        """
        key = self.folder / "keys" / "audit.key"
        subject = read_log_key(key).private_bytes_raw() if key.exists() else b""  # of the same file form
        return AuditLog(self.log, site=self.name, purpose=self.purpose, subject_key=subject)


def establish(place: Place) -> Signer:
    """Make the log key of a member and the endorsement of it, where they are not there; and open them.

    What vouches is the identity key of a hospital, or the authority's of a coordinator. Several processes of a member
    may come to this at once, as its link and its witness link at the first start: one makes both, the others take them.

    Raises:
        UsageError: That key is missing or damaged, or the endorsement is one of another log key.
        PolicyError: Others than its owner may read a key.
        OutputError: Something cannot be written.
        RecordError: Another process has been at it for a minute.
    """
    path, endorsement = place.folder / "keys" / LOG_KEY, place.audit / FILE
    if not (path.exists() and endorsement.exists()):
        private_folder(place.audit)
        with locked(place.audit / _LOCK, "another process is making the log key", patience=_PATIENCE):
            _make(place, path, endorsement)
    return place.signer


def _make(place: Place, path: Path, endorsement: Path) -> None:
    make_log_key(path)
    if not endorsement.exists():
        public = read_log_key(path).public_key().public_bytes_raw()
        if place.site:
            identity: Ed25519PrivateKey = read_log_key(place.folder / "keys" / "identity.key")  # of the same file form
            origin = site_origin(place.name, identity.public_key().public_bytes_raw())
            made = Endorsement.make(origin, public, identity)
        else:
            (certificate,) = read(place.folder / "authority.pem", count=1)
            origin = coordinator_origin(place.name, digest(certificate))
            made = Endorsement.make(origin, public, read_key(place.folder / "keys" / "authority.key"))
        made.save(endorsement)


class _Form(BaseModel):
    """What of ``node.json`` or ``coordinator.json`` the record needs."""

    model_config = ConfigDict(extra="ignore", strict=True)

    site: str = ""
    name: str = ""
    purpose: str = ""
