"""Sending to an archive that speaks DIMSE: C-STORE as a user of its storage service (PS3.4 Annex B).

One association serves for as long as it holds. It proposes the SOP classes and transfer syntaxes of what was sent so
far, and is made anew when something else is at hand, or when it broke.
"""

from collections import defaultdict
from typing import Final, Self
from urllib.parse import unquote

from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from client.sources import status
from client.sources.peer import Address, Peer, UnacceptedError
from client.sources.source import UnreachableError
from client.sources.tls import Tls
from shared.errors import ProtocolError, UsageError

SCHEME: Final = "dicom://"
_DEFAULT: Final = (ImplicitVRLittleEndian,)


class DimseStore:
    """An archive to send to.

    Args:
        url: ``dicom://AET@HOST:PORT``, its AE title percent-encoded where a URL needs that.
        calling: Our AE title, as the archive knows it.
        tls: Whom we trust and who we are; None for open lines.

    Raises:
        UsageError: The URL is none, or an AE title is none.
    """

    def __init__(self, url: str, *, calling: str, tls: Tls | None = None) -> None:
        title, at, address = url.removeprefix(SCHEME).rpartition("@")
        if not url.startswith(SCHEME) or not at:
            raise UsageError(f"'{url}' is no DICOM archive", hint=f"use the form {SCHEME}AET@HOST:PORT")
        self._peer = Peer(Address.parse(address.removesuffix("/")), called=unquote(title), calling=calling, tls=tls)
        self.name = self._peer.name
        self._proposed: dict[UID, set[UID]] = defaultdict(set)
        self._association: Association | None = None

    def store(self, dataset: Dataset) -> str:
        """Send an instance; empty where the archive has it now, else why it does not take it, without its values.

        Raises:
            UnreachableError: No association, the archive broke it or did not answer, or it has no resources.
            ProtocolError: It refuses us, and not this instance alone.
        """
        kind, syntax = UID(dataset.SOPClassUID), UID(dataset.file_meta.TransferSyntaxUID)
        try:
            association = self._opened(kind, syntax)
        except UnacceptedError:
            return f"it takes no {kind.name}"
        if not any(one.abstract_syntax == kind for one in association.accepted_contexts):
            return f"it takes no {kind.name}"
        try:
            answer = association.send_c_store(dataset)
        except ValueError:
            return f"it takes no {kind.name} in {syntax.name}"
        except RuntimeError as error:  # it was ended while we were about to send
            raise self._broken() from error
        if "Status" not in answer:
            raise self._broken()
        return self._judged(int(answer.Status))

    def _judged(self, code: int) -> str:
        if code in status.STORED:
            return ""
        if status.no_resources(code):
            raise UnreachableError(f"has no resources to store (status 0x{code:04X})", "ask its administrator")
        if code == status.NOT_AUTHORIZED:
            raise ProtocolError(
                f"{self.name} refused us (status 0x{code:04X}, not authorized)",
                hint=f"have its administrator let --calling {self._peer.calling} store",
            )
        return status.told(code)

    def _opened(self, kind: UID, syntax: UID) -> Association:
        """The association, with what an instance needs among what it proposes."""
        fresh = syntax not in self._proposed[kind]
        self._proposed[kind].add(syntax)
        if self._association and (fresh or not self._association.is_established):
            self._close()
        if self._association is None:
            self._association = self._peer.associate(self._contexts())
        return self._association

    def _contexts(self) -> list[PresentationContext]:
        """One for each class and syntax; what is not compressed also in the default that all must know (PS3.5 10.1)."""
        return [
            build_context(kind, list(dict.fromkeys((syntax, *(() if syntax.is_compressed else _DEFAULT)))))
            for kind, syntaxes in self._proposed.items()
            for syntax in sorted(syntaxes)
        ]

    def _broken(self) -> UnreachableError:
        if self._association and self._association.is_established:
            self._association.abort()
        self._association = None
        return UnreachableError(
            "broke off the association or stopped answering", "check the network, and that --calling may store there"
        )

    def _close(self) -> None:
        if self._association and self._association.is_established:
            self._association.release()
        self._association = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if any(error) and self._association and self._association.is_established:
            self._association.abort()
        self._close()
