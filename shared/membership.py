"""How a hospital becomes a member: its checked request is added to the draft of a charter, as text.

The text is kept as it is, with its comments, and a ``[[member]]`` block is put behind it. What comes out is read again
and compared with what was meant before it is handed back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.charter import Charter, CharterMember, charter_text, read_form
from shared.errors import CharterError, PolicyError, ProtocolError, UsageError
from shared.identity import Request, same_fingerprint


@dataclass(frozen=True)
class Draft:
    """A charter file while its members are being added: it need not hold together yet.

    Attributes:
        text: The file's text.
        source: Its name, for errors.
        purpose: The federation's purpose.
        members: Those that it has.
    """

    text: str
    source: str
    purpose: str
    members: tuple[CharterMember, ...]

    @classmethod
    def load(cls, path: Path) -> "Draft":
        """The draft in ``path``.

        Raises:
            CharterError: It cannot be read, has a wrong entry, or has no ``[secure_aggregation]``.
        """
        return cls.parse(charter_text(path), source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str) -> "Draft":
        """The draft that ``text`` is."""
        form = read_form(text, source=source)
        if form.secure_aggregation is None:
            raise CharterError(
                f"{source}: members need the table [secure_aggregation]",
                hint="add it with a threshold, such as 3 for three hospitals (docs/charter.md)",
            )
        members = tuple(CharterMember(one.name, one.identity) for one in form.member)
        return cls(text, source, form.federation.purpose, members)

    def admit(self, request: Request, heard: str) -> "Draft":
        """The draft with one member more.

        Args:
            request: As :meth:`Request.read` checked it.
            heard: The fingerprint that the hospital read out by telephone.

        Raises:
            UsageError: The fingerprint is not a whole one, or the name or the key is a member's already.
            ProtocolError: The fingerprint is not that of the request's key.
            PolicyError: The hospital processes data for another purpose.
            CharterError: The block cannot stand behind the file.
        """
        if not same_fingerprint(heard, request.public_key):
            raise ProtocolError(
                f"the key in the request of {request.site} is not the one that was read out",
                hint="do not admit it: somebody may have put another key in its place; ask the hospital again",
            )
        if request.purpose != self.purpose:
            raise PolicyError(
                f"{request.site} processes data for '{request.purpose}', the charter for '{self.purpose}'",
                hint="agree on one purpose, word for word",
            )
        added = CharterMember(request.site, request.public_key.hex())
        self._check_new(added)
        ending = "" if not self.text or self.text.endswith("\n") else "\n"
        block = f'\n[[member]]\nname = "{added.name}"\nidentity = "{added.identity}"\n'
        try:
            draft = Draft.parse(self.text + ending + block, source=self.source)
        except CharterError as error:
            draft = None
            cause: CharterError | None = error
        else:
            cause = None
        if draft is None or (draft.purpose, draft.members) != (self.purpose, (*self.members, added)):
            raise CharterError(
                f"{self.source}: a [[member]] block cannot be added behind this file",
                hint="write members as [[member]] blocks, not as one list",
            ) from cause
        return draft

    def _check_new(self, added: CharterMember) -> None:
        for member in self.members:
            if member.identity == added.identity:
                raise UsageError(
                    f"{self.source}: the key of {added.name} is already that of {member.name}",
                    hint="every hospital has a key of its own; leave this request out",
                )
            # Names are read out and compared by people: h1 and H1 are one name to them.
            if member.name.casefold() == added.name.casefold():
                raise UsageError(
                    f"{self.source} has a member {member.name} already, with another key",
                    hint="if the hospital made a new key, take its old [[member]] out first; else choose another name",
                )

    def missing(self) -> str:
        """What the draft still lacks to be a charter, in one line; empty where it is one."""
        try:
            Charter.parse(self.text, source=self.source)
        except CharterError as error:
            return str(error)
        return ""


def read_requests(paths: Sequence[Path], heard: Sequence[str]) -> list[tuple[Request, str]]:
    """The requests in ``paths``, each with the fingerprint that was read out for it, in the same order.

    Raises:
        UsageError: There are more or fewer fingerprints than requests, or a file is no request.
        ProtocolError: A request is not signed by the key that it names.
    """
    if len(paths) != len(heard):
        raise UsageError(
            f"{len(paths)} requests and {len(heard)} fingerprints were given",
            hint="give one --fingerprint for each request, in the same order, as the hospitals read them out",
        )
    return [(Request.read(path), one) for path, one in zip(paths, heard, strict=True)]
