"""How a hospital becomes a member: its checked request is added to the draft of a charter, as text.

The text is kept as it is, with its comments, and a ``[[member]]`` block is put behind it. What comes out is read again
and compared with what was meant before it is handed back.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shared.charter import Charter, CharterMember, CoordinatorPlan, charter_text, read_form
from shared.errors import CharterError, PolicyError, ProtocolError, UsageError
from shared.identity import Request, same_fingerprint
from shared.places import sound_country


@dataclass(frozen=True)
class Draft:
    """A charter file while its members are being added: it need not hold together yet.

    Attributes:
        text: The file's text.
        source: Its name, for errors.
        purpose: The federation's purpose.
        members: Those that it has.
        coordinator: Whom they connect to, if that stands there already.
    """

    text: str
    source: str
    purpose: str
    members: tuple[CharterMember, ...]
    coordinator: CoordinatorPlan | None = None

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
        members = tuple(CharterMember(**one.model_dump()) for one in form.member)
        link = None if form.coordinator is None else CoordinatorPlan(**form.coordinator.model_dump())
        return cls(text, source, form.federation.purpose, members, link)

    def connect(self, plan: CoordinatorPlan) -> "Draft":
        """The draft with ``plan`` as its coordinator; the same draft where it stands there already.

        Raises:
            CharterError: Another coordinator stands there, or the table cannot stand behind the file.
        """
        if self.coordinator is None:
            return self._with("[coordinator]", plan, replace(self, coordinator=plan))
        for name, value in asdict(plan).items():
            if (there := getattr(self.coordinator, name)) != value:
                raise CharterError(
                    f"{self.source}: the {name} of its [coordinator] is {there or 'left out'}, not {value or 'none'}",
                    hint="name the coordinator's folder that the charter is for, or take that table out of the draft",
                )
        return self

    def admit(self, request: Request, heard: str, *, country: str | None = None, again: bool = False) -> "Draft":
        """The draft with one member more.

        Args:
            request: As :meth:`Request.read` checked it.
            heard: The fingerprint that the hospital read out by telephone.
            country: Where the hospital is, ISO 3166-1 alpha-2.
            again: Whether a hospital that is a member already, under this name and key, may ask again: the draft is
                then the same.

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
        added = CharterMember(request.site, request.public_key.hex(), country)
        if again and self._has(added):
            return self
        self._check_new(added)
        return self._with("[[member]]", added, replace(self, members=(*self.members, added)))

    def _with(self, head: str, values: CharterMember | CoordinatorPlan, meant: "Draft") -> "Draft":
        """The draft with a block behind it, if what comes out is what was meant."""
        ending = "" if not self.text or self.text.endswith("\n") else "\n"
        rows = [f'{name} = "{value}"\n' for name, value in asdict(values).items() if value is not None]
        text = f"{self.text}{ending}\n{head}\n{''.join(rows)}"
        try:
            draft = Draft.parse(text, source=self.source)
        except CharterError as error:
            draft = None
            cause: CharterError | None = error
        else:
            cause = None
        if draft is None or draft != replace(meant, text=text):
            raise CharterError(
                f"{self.source}: a {head} block cannot be added behind this file",
                hint="write members as [[member]] blocks, not as one list",
            ) from cause
        return draft

    def _has(self, asking: CharterMember) -> bool:
        """Whether the hospital is a member already; a country may be left out the second time."""
        for member in self.members:
            if (member.name, member.identity) == (asking.name, asking.identity):
                if asking.country not in {None, member.country}:
                    raise UsageError(
                        f"{self.source}: the country of {member.name} is {member.country or 'left out'}, not "
                        f"{asking.country}",
                        hint="mend it in the file by hand, and agree on the charter anew",
                    )
                return True
        return False

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


@dataclass(frozen=True)
class Asking:
    """A request and what is known of its hospital besides.

    Attributes:
        request: As :meth:`Request.read` checked it.
        heard: The fingerprint that was read out for it.
        country: Where the hospital is, or None.
    """

    request: Request
    heard: str
    country: str | None = None


def read_requests(paths: Sequence[Path], heard: Sequence[str], countries: Sequence[str] = ()) -> list[Asking]:
    """The requests in ``paths``, each with the fingerprint and the country that were given for it, in the same order.

    Raises:
        UsageError: There are more or fewer fingerprints than requests, or countries than either; a file is no request,
            or a country is none.
        ProtocolError: A request is not signed by the key that it names.
    """
    if len(paths) != len(heard):
        raise UsageError(
            f"{len(paths)} requests and {len(heard)} fingerprints were given",
            hint="give one --fingerprint for each request, in the same order, as the hospitals read them out",
        )
    if countries and len(countries) != len(paths):
        raise UsageError(
            f"{len(paths)} requests and {len(countries)} countries were given",
            hint="give one --country for each request, in the same order, or none at all",
        )
    try:
        places: Sequence[str | None] = [sound_country(one) for one in countries] or [None] * len(paths)
    except ValueError as error:
        raise UsageError(f"a country {error}", hint="give --country DE, for example") from error
    return [Asking(Request.read(path), one, country) for path, one, country in zip(paths, heard, places, strict=True)]
