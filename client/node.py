"""The folder of a hospital's node: who it is, its keys, the charter that it pinned, its record and its cohort.

``node.json`` (site, purpose, whether it is virtual), ``keys/`` (files 0600), ``charter.toml``, ``policy.toml`` (the
hospital's own; optional), ``audit/`` (``log.jsonl``; ``tiles/``, ``checkpoints/``, ``checkpoint`` and
``endorsement.json``, what was published of it; ``witness/`` and ``known/``, what was seen of the others), ``cohort/``,
``privacy/``, ``sums/``, ``rights/`` (0700; lawful basis, consents, lineage, manifest, requests), ``incidents/``,
``imports/`` (0700; where data sets of others are from), ``personal/`` (0700; the hospital's own models), ``releases/``
(released models that a charter may start from), ``masks/`` (0700; the ledger of secure aggregation),
``answers/`` (0700; the newest masked answers), ``held/`` (0700; files of an ingest that wait for a person), ``link/``
(0700; the certificates of the connection to the coordinator, its state, its lock and the message under way); and the
locks ``session.lock`` and ``ingest.lock``.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.log import AuditLog
from shared.charter import Charter
from shared.errors import PolicyError, UsageError
from shared.files import output_errors, write_bytes, write_json
from shared.link_keys import check_key_file, make_key
from shared.parsing import parse_json

if TYPE_CHECKING:
    from client.cohort import Cohort

IDENTITY = "identity"
KEYS = ("pseudonym", "audit", IDENTITY)
LINK = "link"
"""The key of the connection to the coordinator, and the folder of its certificates."""
HELD = "held"
"""The folder of files of an ingest that wait for a person."""
KEY_BYTES = 32
PRIVATE = 0o600
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Node:
    """One hospital's node; every property is read from its folder when it is asked for.

    Attributes:
        folder: Where the node keeps everything.
        site: The hospital's name in the federation.
        purpose: Why data is processed here (GDPR Art. 5(1)(b)); must be the charter's.
        virtual: Whether its keys come from a seed that anybody knows: a hospital of a simulation, without patients.
    """

    folder: Path
    site: str
    purpose: str
    virtual: bool = False

    @classmethod
    def create(cls, folder: Path, *, site: str, purpose: str, seed: int | None = None) -> "Node":
        """Make a node with fresh keys, or open the one that is there if it is the same site and purpose.

        Args:
            folder: Made with mode 0700 where missing, and so is ``keys/`` in it.
            site: Letters, digits, dots and dashes, at most 64.
            purpose: As in the charter.
            seed: Only for virtual hospitals: keys that anybody can compute again, for runs that can be repeated.

        Raises:
            UsageError: The name is no name, or the folder is another node.
            OutputError: The folder cannot be made, or not be written.
        """
        if not _SITE.fullmatch(site):
            raise UsageError(f"'{site}' is not the name of a site", hint="use 1 to 64 letters, digits, dots and dashes")
        if (folder / "node.json").exists():
            node = cls.open(folder)
            node._require(site, purpose, virtual=seed is not None)
            _make_keys(folder, (IDENTITY,), site, seed)  # a node from before there were identities
            _make_link_key(folder, seed)  # or links
            return node
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_keys(folder, KEYS, site, seed)
        _make_link_key(folder, seed)
        virtual = seed is not None
        write_json(folder / "node.json", {"site": site, "purpose": purpose, "virtual": virtual})
        return cls(folder, site, purpose, virtual)

    @classmethod
    def open(cls, folder: Path) -> "Node":
        """The node in ``folder``.

        Raises:
            UsageError: There is none, or its description is damaged.
        """
        try:
            raw = parse_json((folder / "node.json").read_bytes())
            site, purpose, virtual = raw["site"], raw["purpose"], raw.get("virtual", False)
        except FileNotFoundError:
            raise UsageError(f"{folder} is not a node", hint="make one with 'fedward node init'") from None
        except OSError as error:
            raise UsageError(
                f"cannot read {folder / 'node.json'}: {error.strerror}", hint="name the node's folder"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{folder / 'node.json'} is damaged", hint="restore it from a copy") from error
        if not (isinstance(site, str) and _SITE.fullmatch(site) and isinstance(purpose, str)) or (
            virtual is not True and virtual is not False
        ):
            raise UsageError(f"{folder / 'node.json'} is damaged", hint="restore it from a copy")
        return cls(folder, site, purpose, virtual)

    def _require(self, site: str, purpose: str, *, virtual: bool) -> None:
        """Refuse to pass for another node, and say in what it differs."""
        if self.site != site:
            raise UsageError(f"{self.folder} is the node of {self.site}", hint="choose another folder")
        if self.purpose != purpose:
            raise UsageError(
                f"{self.folder} is the node of {site} for another purpose: '{self.purpose}'",
                hint="give that one, or choose another folder",
            )
        if self.virtual != virtual:
            kind = "a virtual hospital, whose keys anybody can compute" if self.virtual else "a real hospital"
            raise UsageError(f"{self.folder} is the node of {site} as {kind}", hint="choose another folder")

    def require_real(self) -> None:
        """Refuse what a hospital with patients does and a virtual one must not.

        Raises:
            PolicyError: The node is a virtual hospital.
        """
        if self.virtual:
            raise PolicyError(
                f"{self.site} is a virtual hospital, whose keys anybody can compute",
                hint="make a node for a real hospital with 'fedward node init'",
            )

    def key(self, name: str) -> bytes:
        """The 32 bytes of key ``name``.

        Raises:
            UsageError: It is missing or damaged.
            PolicyError: Others than its owner may read it (45 CFR 164.312(a)(1), access control).
        """
        path = self.folder / "keys" / f"{name}.key"
        try:
            mode, text = path.stat().st_mode, path.read_text(encoding="ascii")
            key = bytes.fromhex(text)
        except (OSError, ValueError) as error:
            raise UsageError(f"the key {path} cannot be read", hint="restore it from a copy") from error
        if mode & 0o077:
            raise PolicyError(f"others may read the key {path}", hint=f"run: chmod 600 {path}")
        if len(key) != KEY_BYTES:
            raise UsageError(f"the key {path} is damaged", hint="restore it from a copy")
        return key

    @property
    def identity(self) -> Ed25519PrivateKey:
        """The key with which this hospital signs in its federation (RFC 8032).

        Raises:
            UsageError: It is missing or damaged.
            PolicyError: Others than its owner may read it.
        """
        return Ed25519PrivateKey.from_private_bytes(self.key(IDENTITY))

    @property
    def link_key(self) -> Path:
        """The file of the key of the connection to the coordinator: EC P-384, PEM PKCS#8.

        It is the key of the TLS client and the one that Flower authenticates the node with.

        Raises:
            UsageError: It is missing, as in a virtual hospital, which connects to nobody.
            PolicyError: Others than its owner may read it.
        """
        path = _link_key(self.folder)
        check_key_file(path, missing="run 'fedward node init' again with the same site and purpose: it makes one")
        return path

    @property
    def link(self) -> Path:
        """The folder of the connection to the coordinator (0700), made by :func:`client.join.Joining.pin`."""
        return self.folder / LINK

    @property
    def certificate(self) -> Path:
        """The file of this hospital's certificate, from the coordinator."""
        return self.link / "certificate.pem"

    @property
    def authority(self) -> Path:
        """The file of the certificate of the coordinator's authority."""
        return self.link / "authority.pem"

    def open_log(self) -> AuditLog:
        """The node's audit log, to write to; close it.

        Raises:
            RecordError: It does not verify, or cannot be written.
        """
        path = self.folder / "audit" / "log.jsonl"
        return AuditLog(path, site=self.site, purpose=self.purpose, subject_key=self.key("audit"))

    def pin(self, charter: Charter) -> None:
        """Make ``charter`` the one that this node follows, whatever a message says later.

        Raises:
            PolicyError: Its purpose is not this node's.
        """
        if charter.purpose != self.purpose:
            raise PolicyError(
                f"the charter's purpose '{charter.purpose}' is not that of {self.site}, '{self.purpose}'",
                hint="agree on one purpose before you join",
            )
        write_bytes(self.folder / "charter.toml", charter.to_toml().encode(), durable=True)

    @property
    def pinned(self) -> bytes:
        """The file of the pinned charter as it is; empty where none is pinned."""
        path = self.folder / "charter.toml"
        return path.read_bytes() if path.exists() else b""

    @property
    def charter(self) -> Charter:
        """The pinned charter.

        Raises:
            PolicyError: None is pinned.
            CharterError: It was damaged.
        """
        path = self.folder / "charter.toml"
        if not path.exists():
            raise PolicyError(f"{self.site} has pinned no charter", hint="join a federation with 'fedward node join'")
        return Charter.load(path)

    @property
    def cohort(self) -> "Cohort":
        """The index of the node's de-identified patients.

        Raises:
            DataError: There is none.
        """
        from client.cohort import Cohort  # noqa: PLC0415  # brings the DICOM libraries: seconds that few need

        return Cohort.open(self.folder / "cohort")

    def ledger(self, run: str = "") -> Path:
        """The file of the privacy ledger: one whatever ``run``, but for a virtual hospital, which has one for each."""
        return self.folder / "privacy" / (f"{run}.jsonl" if self.virtual else "ledger.jsonl")


def _make_keys(folder: Path, names: Iterable[str], site: str, seed: int | None) -> None:
    """Make those keys that are not there; one that is there is never replaced."""
    keys = folder / "keys"
    with output_errors(keys):
        keys.mkdir(exist_ok=True, mode=0o700)
    for name in names:
        path = keys / f"{name}.key"
        if not path.exists():
            write_bytes(path, _key(name, site, seed).hex().encode(), mode=PRIVATE, durable=True)


def _key(name: str, site: str, seed: int | None) -> bytes:
    if seed is None:
        return secrets.token_bytes(KEY_BYTES)
    return hmac.new(str(seed).encode(), f"{site}|{name}".encode(), hashlib.sha256).digest()


def _link_key(folder: Path) -> Path:
    return folder / "keys" / f"{LINK}.key"


def _make_link_key(folder: Path, seed: int | None) -> None:
    """Make the key of the connection where it is not there; a virtual hospital connects to nobody."""
    if seed is None and not (path := _link_key(folder)).exists():
        make_key(path)
