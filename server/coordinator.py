"""The folder of a coordinator: who it is, its keys, whom it admitted, and what its runs left.

``coordinator.json`` (name, address, country), ``keys/`` (0700; ``authority.key``, ``gate.key``, ``link.secret``,
``log.key``, each 0600), ``authority.pem`` and ``gate.pem`` (certificates), ``members/SITE.json`` (the requests that
were approved, as they came), ``certificates/SITE.pem`` (what is sent to a hospital), ``superlink/``, ``runs/RUN/``,
``audit/`` (``log.jsonl``; ``tiles/``, ``checkpoints/``, ``checkpoint`` and ``endorsement.json``, what was published of
it; ``witness/`` and ``known/``, what was seen of the hospitals), ``incidents/`` and ``status.json``. ``fedward server
init`` makes it (:mod:`server.authority`).
"""

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.errors import PolicyError, UsageError
from shared.faults import words_of
from shared.files import output_errors, write_bytes, write_json
from shared.identity import Request
from shared.places import sound_address, sound_country

VERSION: Final = 1
PRIVATE: Final = 0o600
SECRET_BYTES: Final = 32
_AGAIN: Final = "restore it from a copy"
_SECRET: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Coordinator:
    """One coordinator; every property is read from its folder when it is asked for.

    Attributes:
        folder: Where it keeps everything.
        name: Its name, as in the charter.
        address: ``host:port`` that the hospitals connect to.
        country: ISO 3166-1 alpha-2 code of where it is, or None.
    """

    folder: Path
    name: str
    address: str
    country: str | None = None

    @classmethod
    def create(cls, folder: Path, *, name: str, address: str, country: str | None = None) -> "Coordinator":
        """Make the folder with its secrets, or open the one that is there and write what is said of it anew.

        The keys and certificates of the authority and of the gate are :func:`server.authority.establish`'s work.

        Args:
            folder: Made with mode 0700 where missing, and so is ``keys/`` in it.
            name: 1 to 64 letters, digits, dots and dashes.
            address: ``host:port``.
            country: ISO 3166-1 alpha-2, or None.

        Raises:
            UsageError: A value cannot stand in a charter, or the folder is the coordinator of another name.
            OutputError: The folder cannot be made, or not be written.
        """
        try:
            _Form(name=name, address=address, country=country, version=VERSION)
        except ValidationError as error:
            raise UsageError(_fault(error), hint="see 'fedward server init --help'") from error
        if (folder / "coordinator.json").exists() and (there := cls.open(folder)).name != name:
            raise UsageError(f"{folder} is the coordinator {there.name}", hint="choose another folder")
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for part in ("keys", "members", "certificates", "superlink", "runs", "audit"):
                (folder / part).mkdir(exist_ok=True, mode=0o700)
        made = cls(folder, name, address, country)
        if not made.secret_path.exists():
            secret = secrets.token_hex(SECRET_BYTES)
            write_bytes(made.secret_path, secret.encode(), mode=PRIVATE, durable=True)
        facts = {"name": name, "address": address, "country": country, "version": VERSION}
        write_json(folder / "coordinator.json", facts)
        return made

    @classmethod
    def open(cls, folder: Path) -> "Coordinator":
        """The coordinator in ``folder``.

        Raises:
            UsageError: There is none, or its description is damaged.
        """
        path = folder / "coordinator.json"
        try:
            form = _Form.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise UsageError(
                f"{folder} is not a coordinator's folder", hint="make one with 'fedward server init'"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the coordinator's folder") from error
        except ValidationError as error:
            raise UsageError(f"{path} is damaged: {_fault(error)}", hint=_AGAIN) from error
        return cls(folder, form.name, form.address, form.country)

    @property
    def authority_key_path(self) -> Path:
        """The private key that signs the certificates of the hospitals and of the gate."""
        return self.folder / "keys" / "authority.key"

    @property
    def authority_path(self) -> Path:
        """The authority's certificate; its SHA-256 stands in the charter."""
        return self.folder / "authority.pem"

    @property
    def gate_key_path(self) -> Path:
        """The private key of the gate's TLS."""
        return self.folder / "keys" / "gate.key"

    @property
    def gate_path(self) -> Path:
        """The gate's certificate."""
        return self.folder / "gate.pem"

    @property
    def secret_path(self) -> Path:
        """The secret of the inner listener."""
        return self.folder / "keys" / "link.secret"

    @property
    def members_folder(self) -> Path:
        """``SITE.json``: the requests that were approved, as they came."""
        return self.folder / "members"

    @property
    def certificates_folder(self) -> Path:
        """``SITE.pem``: a hospital's certificate, then the authority's."""
        return self.folder / "certificates"

    @property
    def superlink_folder(self) -> Path:
        """What the SuperLink keeps: its database and FLWR_HOME."""
        return self.folder / "superlink"

    @property
    def database_path(self) -> Path:
        """The SuperLink's database: nodes, runs, and messages until they are delivered."""
        return self.superlink_folder / "state.db"

    @property
    def inner_path(self) -> Path:
        """The Unix socket of the SuperLink's inner listener, made anew at each start (:mod:`server.within`)."""
        return self.superlink_folder / "inner.sock"

    @property
    def executor_path(self) -> Path:
        """Locked while the executor takes runs: what an earlier one left has been ended."""
        return self.superlink_folder / "executor"

    @property
    def runs_folder(self) -> Path:
        """One folder for each run."""
        return self.folder / "runs"

    @property
    def log_path(self) -> Path:
        """The audit log."""
        return self.folder / "audit" / "log.jsonl"

    @property
    def status_path(self) -> Path:
        """What ``fedward server status`` reads."""
        return self.folder / "status.json"

    def environment(self) -> dict[str, str]:
        """What every process of this coordinator has in its environment beside what it inherits.

        No telemetry, no look for updates, no installation of what an app asks for, Flower's files inside this folder,
        and the own machine reached without a proxy.
        """
        direct = [os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy")]
        here = ",".join(dict.fromkeys(["127.0.0.1", "localhost", *filter(None, direct)]))
        return {
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_HOME": str((self.superlink_folder / "flwr").resolve()),
            "NO_PROXY": here,
            "no_proxy": here,
        }

    def secret(self) -> str:
        """The secret of the inner listener, 64 hexadecimal digits.

        Raises:
            UsageError: It is missing or damaged.
            PolicyError: Others than its owner may read it.
        """
        path = self.secret_path
        try:
            mode, text = path.stat().st_mode, path.read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise UsageError(f"the key {path} cannot be read", hint=_AGAIN) from error
        if mode & 0o077:
            raise PolicyError(f"others may read the key {path}", hint=f"run: chmod 600 {path}")
        if not _SECRET.fullmatch(text):
            raise UsageError(f"the key {path} is damaged", hint=_AGAIN)
        return text

    def members(self) -> tuple[Request, ...]:
        """The requests of all hospitals that were approved here, by the name of the site; each is checked again.

        Raises:
            UsageError: A file is no request.
            ProtocolError: One was altered, or stands under another name than its own.
        """
        found = []
        for path in sorted(self.members_folder.glob("*.json")):
            request = Request.read(path)
            if path.stem != request.site:
                raise UsageError(f"{path} is the request of {request.site}", hint=_AGAIN)
            found.append(request)
        return tuple(found)


class _Form(BaseModel):
    """The file ``coordinator.json``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    address: Annotated[str, AfterValidator(sound_address)]
    country: Annotated[str, AfterValidator(sound_country)] | None = None
    version: Annotated[int, Field(ge=VERSION, le=VERSION)]


def _fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    place = str(fault["loc"][0]) if fault["loc"] else ""
    return f"{place}: {words_of(fault)}" if place in _Form.model_fields else words_of(fault)
