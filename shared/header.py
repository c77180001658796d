"""What every message of the federation has in common: the header that it belongs to, and the form of its structure."""

import re
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import RecordDict
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.records import bad_message, printable, read_structure

PROTOCOL = 2

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Header:
    """What a message belongs to; a reply repeats the header of its request.

    Attributes:
        federation: Id of the federation (``Charter.id``).
        charter: SHA-256 of the charter, as hex.
        run: Id of the run.
        round: Round of the task, from 1; 0 for the evaluation of the initial model.
        attempt: 1, and one more for each time that the coordinator repeats the round.
        task: Name of the task.
        model: Digest of the global model of the round (:meth:`shared.vector.Layout.digest`), as hex.
    """

    federation: str
    charter: str
    run: str
    round: int
    attempt: int
    task: str
    model: str
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        """Refuse another protocol, names with odd characters and numbers out of range."""
        if self.protocol != PROTOCOL:
            raise bad_message(
                f"protocol version {self.protocol}, not {PROTOCOL}", "install the same release at both ends"
            )
        for name in ("federation", "run", "task"):
            if not NAME.fullmatch(getattr(self, name)):
                raise bad_message(f"'{name}' is not a name of 1 to 64 letters, digits, dots and dashes")
        for name in ("charter", "model"):
            check_sha256(name, getattr(self, name))
        if not (0 <= self.round <= 100_000 and 1 <= self.attempt <= 1000):
            raise bad_message(f"round {self.round}, attempt {self.attempt} is out of range")


class Form(BaseModel):
    """The structure of one kind of message: nothing missing, nothing extra, no conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class HeaderForm(Form):
    """The form of a :class:`Header`."""

    federation: str
    charter: str
    run: str
    round: int
    attempt: int
    task: str
    model: str
    protocol: int

    def read(self) -> Header:
        """The header, checked."""
        return Header(**self.model_dump())


_FormT = TypeVar("_FormT", bound=Form)


def read_form(record: RecordDict, form: type[_FormT], kind: str) -> _FormT:
    """The structure of a message of ``kind``.

    Raises:
        ProtocolError: It is of another kind, or has another form.
    """
    raw = read_structure(record)
    if raw.get("kind") != kind:
        raise bad_message(f"it is not a {kind}")
    try:
        return form.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise bad_message(f"{printable(place)}: {first['msg'].lower()}") from error


def check_site(site: str) -> None:
    """Refuse what is not the name of a site.

    Raises:
        ProtocolError: It is not.
    """
    if not NAME.fullmatch(site):
        raise bad_message("'site' is not a name of 1 to 64 letters, digits, dots and dashes")


def check_sha256(name: str, text: str) -> None:
    """Refuse what is not a SHA-256 in hexadecimal.

    Raises:
        ProtocolError: It is not.
    """
    if not _SHA256.fullmatch(text):
        raise bad_message(f"'{name}' is not a SHA-256 in hexadecimal")
