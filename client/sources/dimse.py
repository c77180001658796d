"""An archive that speaks DIMSE (PS3.4 Annex C): C-FIND to search, C-MOVE to our own receiver or C-GET to retrieve.

The receiver listens on the one address that it was given, for as long as the ingest runs, takes associations of the
archive's AE title only, and keeps only the instances that are being asked for at that moment.
"""

import contextlib
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.transport import ThreadedAssociationServer

from client.deid.tables import released
from client.sources.dicomweb import queries
from client.sources.intake import Intake, Problem, day_of
from client.sources.peer import Address as Address  # noqa: PLC0414  # where most look for it
from client.sources.peer import Peer
from client.sources.selection import Facts, Instance, Selection
from client.sources.source import Study, UnreachableError, WithheldError
from client.sources.tls import Context, Tls
from shared.errors import FedwardError, ProtocolError, UsageError

FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")  # Study Root Query/Retrieve Information Model (PS3.4 C.6.2)
MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
ECHO = UID("1.2.840.10008.1.1")

# PS3.5 Annex A: what images of the classes that can be released are stored in.
SYNTAXES = [
    *("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"),
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),
]
MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers up to 255
UIDS_AT_ONCE = 100

SUCCESS, PENDING, NO_RESOURCES = 0x0000, {0xFF00, 0xFF01}, range(0xA700, 0xA800)
WARNING, UNKNOWN_DESTINATION, CANNOT_UNDERSTAND, NOT_AUTHORIZED = 0xB000, 0xA801, 0xC000, 0x0124

_UID = re.compile(r"[0-9.]{1,64}")


class Dimse:
    """Studies in an archive that speaks DIMSE.

    Args:
        address: Where the archive listens.
        called: Its AE title.
        calling: Ours, as the archive knows it.
        listen: Where our receiver listens for C-MOVE; None to use C-GET.
        tls: Whom we trust and who we are, where all of this goes over TLS; None for open lines.

    Raises:
        UsageError: A receiver is to speak TLS without a certificate.
        UsageError: An AE title is none (PS3.5 6.2: up to 16 characters, not all blank, no backslash).
    """

    def __init__(
        self, address: Address, *, called: str, calling: str, listen: Address | None, tls: Tls | None = None
    ) -> None:
        self._peer = Peer(address, called=called, calling=calling, tls=tls)
        self.name = self._peer.name
        self.kind = "c-move" if listen else "c-get"
        self._listen = listen
        self._secured: Context | None = tls.server() if tls and listen else None
        self._live: Association | None = None
        self._lock = threading.Lock()
        self._intake: Intake | None = None
        self._failure: FedwardError | None = None
        self._server: ThreadedAssociationServer | None = None
        self._problems: list[Problem] = []

    def studies(self, selection: Selection) -> Sequence[Study]:
        """See :meth:`client.sources.source.Source.studies`."""
        found: dict[str, Study] = {}
        with self._associate([build_context(FIND)]) as association:
            for filters in queries(selection):
                keys = {"PatientID": "", "StudyDate": "", "StudyDescription": "", "ModalitiesInStudy": ""} | filters
                for row in self._find(association, "STUDY", **keys):
                    named = row.get("ModalitiesInStudy") or ()
                    modalities = frozenset({named} if isinstance(named, str) else map(str, named))
                    facts = Facts(
                        modalities or None,
                        day_of(str(row.get("StudyDate") or "")),
                        (str(row.get("StudyDescription") or ""),),
                        str(row.get("PatientID") or "") or None,
                    )
                    if selection.admits_study(facts):
                        uid = str(row.StudyInstanceUID)
                        found[uid] = Study(uid, facts)
        return [found[uid] for uid in sorted(found)]

    def instances(self, study: Study, selection: Selection) -> Sequence[Instance]:
        """See :meth:`client.sources.source.Source.instances`."""
        with self._associate([build_context(FIND)]) as association:
            candidates = []
            for row in self._find(association, "SERIES", StudyInstanceUID=study.uid, Modality="", SeriesDescription=""):
                modality = str(row.get("Modality") or "")
                described = (*(study.facts.descriptions or ()), str(row.get("SeriesDescription") or ""))
                known = frozenset({modality}) if modality else None
                candidates.append(
                    (str(row.SeriesInstanceUID), Facts(known, study.facts.day, described, study.facts.patient))
                )
            return sorted(
                Instance(series, str(row.SOPInstanceUID), str(row.get("SOPClassUID") or ""))
                for series in selection.choose(candidates)
                for row in self._find(
                    association, "IMAGE", StudyInstanceUID=study.uid, SeriesInstanceUID=series, SOPClassUID=""
                )
            )

    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        """See :meth:`client.sources.source.Source.fetch`."""
        wanted = list(wanted)
        self.start_receiver()
        if self._secured:
            self._secured.error = None
        contexts = [build_context(MOVE)] if self._listen else _get_contexts(wanted)
        with self.receiving(intake), self._associate(contexts) as association:
            for request in _requests(study, wanted, whole=not intake.kept()):
                self._retrieve(association, request)
        if self._failure:
            raise self._failure

    def problems(self) -> Sequence[Problem]:
        """See :meth:`client.sources.source.Source.problems`."""
        return self._problems

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:  # another thread still waits for an answer that nobody needs any more
            self._live.abort()
        if self._server:
            self._server.shutdown()
            self._server = None

    @contextlib.contextmanager
    def _associate(self, contexts: list[PresentationContext]) -> Iterator[Association]:
        roles = [
            build_role(one.abstract_syntax, scp_role=True)
            for one in contexts
            if one.abstract_syntax and one.abstract_syntax not in {FIND, MOVE, GET}
        ]
        with self._peer.associated(contexts, roles=roles, handlers=[(evt.EVT_C_STORE, self._keep)]) as association:
            self._live = association
            try:
                yield association
            finally:
                self._live = None

    # --- queries and retrievals -----------------------------------------------------------------------------------

    def _find(self, association: Association, level: str, **keys: str) -> Iterator[Dataset]:
        own = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
        query = Dataset()
        query.QueryRetrieveLevel = level
        for keyword, value in ({own: ""} | keys).items():
            setattr(query, keyword, value)
        if not all(value.isascii() for value in keys.values()):
            query.SpecificCharacterSet = "ISO_IR 192"
        for status, row in association.send_c_find(query, FIND):
            code = _code(status)
            if code in PENDING and row is not None:
                if _UID.fullmatch(str(row.get(own) or "")):
                    yield row
                else:
                    self._problems.append(Problem(self.name, f"it named a {level.lower()} without a valid UID"))
            elif code in NO_RESOURCES:
                raise UnreachableError(f"has no resources for a query (status 0x{code:04X})", "ask its administrator")
            elif code != SUCCESS:
                raise ProtocolError(
                    f"{self.name} refused a query (status 0x{code:04X})", hint="ask its administrator for the rights"
                )

    def _retrieve(self, association: Association, request: Dataset) -> None:
        if self._listen:
            answers = association.send_c_move(request, self._peer.calling, MOVE)
        else:
            answers = association.send_c_get(request, GET)
        for status, _ in answers:
            code = _code(status)
            if self._failure:
                return
            if code == UNKNOWN_DESTINATION:
                raise ProtocolError(
                    f"{self.name} does not know where {self._peer.calling} is",
                    hint=f"enter AE title {self._peer.calling} with our host and port there, or use --get",
                )
            if code not in PENDING and code not in {SUCCESS, WARNING}:
                self._check_receiver()
                check = "check that it can connect to --listen" if self._listen else "ask its administrator"
                raise WithheldError(f"could not send what was asked for (status 0x{code:04X})", check)

    def _check_receiver(self) -> None:
        """Raise where the archive tried to send and could not since our receiver speaks TLS."""
        if self._secured and (fault := self._secured.fault()):
            ours = self._peer.calling
            raise ProtocolError(
                f"{self.name} cannot send to --listen over TLS: it {fault.reason}",
                hint=f"have it use TLS for {ours} with a certificate of an authority of --ca, and trust ours",
            )

    # --- receiving ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def receiving(self, intake: Intake) -> Iterator[None]:
        """Let instances come into ``intake`` for as long as the block runs; at other times all are turned away."""
        with self._lock:
            self._intake, self._failure = intake, None
        try:
            yield
        finally:
            with self._lock:
                self._intake = None

    def start_receiver(self) -> None:
        """Listen for what C-MOVE sends, if that is how instances come and nobody listens yet.

        Raises:
            UsageError: The address is not ours, or is taken.
        """
        listen = self._listen
        if listen is None or self._server is not None:
            return
        ae = self._peer.ae()
        ae.require_called_aet = True
        ae.require_calling_aet = [self._peer.called]
        ae.maximum_associations = 4
        for context in AllStoragePresentationContexts:
            if context.abstract_syntax:
                ae.add_supported_context(context.abstract_syntax, SYNTAXES)
        ae.add_supported_context(ECHO)
        try:
            self._server = ae.start_server(
                (listen.host, listen.port),
                block=False,
                evt_handlers=[(evt.EVT_C_STORE, self._keep)],
                ssl_context=self._secured,
            )
        except OSError as error:
            raise UsageError(
                f"cannot listen on {listen}: {error.strerror or error}", hint="choose an own, free address for --listen"
            ) from error

    def _keep(self, event: Event) -> int:
        """Take one instance; called in the thread of its association, so nothing may be raised here."""
        with self._lock:
            if self._intake is None:
                return NOT_AUTHORIZED
            try:
                data = event.encoded_dataset()
                kept = self._intake.put(data, asked=str(event.request.AffectedSOPInstanceUID))  # type: ignore[union-attr]
            except FedwardError as error:  # the spool is full: told in the thread that asked
                self._failure = error
                return NO_RESOURCES.start
            return SUCCESS if kept else CANNOT_UNDERSTAND


def _code(status: Dataset) -> int:
    """The status of a response.

    Raises:
        UnreachableError: There is none: the association broke, or the answer did not come in time.
    """
    if "Status" not in status:
        raise UnreachableError("stopped answering", "check the network, and that it lets --calling query and retrieve")
    return int(status.Status)


def _requests(study: Study, wanted: Sequence[Instance], *, whole: bool) -> Iterator[Dataset]:
    """The retrievals for ``wanted``: series by series, or by instance where a part is there already."""
    series: dict[str, list[str]] = defaultdict(list)
    for one in wanted:
        series[one.series].append(one.uid)
    for uid, members in sorted(series.items()):
        for start in range(0, 1 if whole else len(members), UIDS_AT_ONCE):
            request = Dataset()
            request.QueryRetrieveLevel = "SERIES" if whole else "IMAGE"
            request.StudyInstanceUID, request.SeriesInstanceUID = study.uid, uid
            if not whole:
                request.SOPInstanceUID = members[start : start + UIDS_AT_ONCE]
            yield request


def _get_contexts(wanted: Sequence[Instance]) -> list[PresentationContext]:
    """C-GET with the classes of what is wanted; where the archive did not tell them, those that can be released."""
    classes = dict.fromkeys(one.sop_class for one in wanted if _UID.fullmatch(one.sop_class))
    classes |= dict.fromkeys(released())
    storage = [build_context(uid, SYNTAXES) for uid in classes]
    return [build_context(GET), *storage[: MOST_CONTEXTS - 1]]
