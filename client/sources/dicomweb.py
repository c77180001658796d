"""A DICOMweb server (PS3.18): QIDO-RS to search, WADO-RS to retrieve, one instance at a time.

Instances are kept as the bytes that the server sends: the strict reader of de-identification looks at them, and nothing
is parsed and written again on the way.
"""

import ipaddress
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter

from client.sources.credentials import Credentials
from client.sources.intake import LARGEST, Intake, Problem, day_of
from client.sources.selection import Facts, Instance, Selection
from client.sources.source import Study, UnreachableError, WithheldError
from client.sources.status import told
from shared.errors import PolicyError, ProtocolError, UsageError

CONNECT, READ = 10.0, 60.0
"""Seconds to wait for a connection, and for the next bytes."""
LONGEST = 1800.0
"""Seconds for one answer."""
PAGE = 500
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_UID = re.compile(r"[0-9.]{1,64}")
_SIGNS = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}
_NONE_STORED = 409  # PS3.18 table 10.5.3-1: what was sent is a request as it should be, and none of it was stored
_BUSY = {408, 425, 429, 500, 502, 503, 504}


class DicomWeb:
    """Studies behind a DICOMweb URL.

    Args:
        url: The service's root, as ``https://pacs.hospital.example/dicom-web``.
        credentials: Sent with every request; only over TLS, or to this machine itself.
        authority: A file of PEM certificates to trust instead of the usual ones.

    Raises:
        UsageError: The URL is none, or the file of certificates is not there.
        PolicyError: Credentials would go over an open connection.
    """

    kind = "dicomweb"

    def __init__(self, url: str, *, credentials: Credentials | None = None, authority: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise UsageError("the DICOMweb URL is not one", hint="use the form https://HOST/dicom-web")
        if parts.username or parts.password:
            raise UsageError("the DICOMweb URL holds credentials", hint="put them into a file and name --credentials")
        if credentials and parts.scheme == "http" and not _is_this_machine(parts.hostname):
            raise PolicyError(f"credentials for {parts.hostname} would go unencrypted", hint="use the https URL")
        if authority and not authority.is_file():
            raise UsageError(f"there is no file {authority}", hint="name the PEM file of the certificate authority")
        self.name = parts.netloc
        self._root = url.rstrip("/")
        self._session = requests.Session()
        # Neither proxies nor passwords nor authorities from the environment: what is not named here is not used.
        self._session.trust_env = False
        self._session.max_redirects = 0
        self._session.verify = str(authority) if authority else True
        self._session.auth = credentials.auth() if credentials else None
        adapter = _Bounded()
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._client = DICOMwebClient(self._root, session=self._session, timeout=(CONNECT, READ))
        self._client.set_http_retry_params(retry=False)
        self._problems: list[Problem] = []

    def studies(self, selection: Selection) -> Sequence[Study]:
        """See :meth:`client.sources.source.Source.studies`."""
        found: dict[str, Study] = {}
        for filters in queries(selection):
            for row in self._search("study", search_filters=filters, fields=["StudyDescription", "ModalitiesInStudy"]):
                modalities = frozenset(str(one) for one in row.get("00080061", {}).get("Value", []))
                facts = Facts(modalities or None, day_of(_text(row, "00080020")), None, _text(row, "00100020") or None)
                if selection.admits_study(facts):
                    uid = _text(row, _SIGNS["study"])
                    described = (_text(row, "00081030"),)
                    found[uid] = Study(uid, Facts(facts.modalities, facts.day, described, facts.patient))
        return [found[uid] for uid in sorted(found)]

    def instances(self, study: Study, selection: Selection) -> Sequence[Instance]:
        """See :meth:`client.sources.source.Source.instances`."""
        candidates = []
        for row in self._search("series", study_instance_uid=study.uid):
            modality = _text(row, "00080060")
            described = (*(study.facts.descriptions or ()), _text(row, "0008103E"))
            facts = Facts(frozenset({modality}) if modality else None, study.facts.day, described, study.facts.patient)
            candidates.append((_text(row, _SIGNS["series"]), facts))
        return sorted(
            Instance(series, _text(row, _SIGNS["instance"]), _text(row, "00080016"))
            for series in selection.choose(candidates)
            for row in self._search("instance", study_instance_uid=study.uid, series_instance_uid=series)
        )

    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        """See :meth:`client.sources.source.Source.fetch`."""
        withheld: UnreachableError | None = None
        for one in wanted:
            url = f"{self._root}/studies/{study.uid}/series/{one.series}/instances/{one.uid}"
            with _network_errors(self.name):
                answer = self._session.get(url, headers={"Accept": _ACCEPT}, timeout=(CONNECT, READ))
                if answer.status_code in {404, 410}:
                    continue  # it was there when we asked for the list; it stays missing, and is reported as such
                if answer.status_code in _BUSY:
                    withheld = WithheldError(f"answered HTTP {answer.status_code}", "ask its administrator")
                    continue  # one broken file must not keep the others from coming
                answer.raise_for_status()
            intake.put(_single_part(answer, self.name), asked=one.uid)
        if withheld:
            raise withheld

    def store(self, dataset: Dataset) -> str:
        """Send an instance (STOW-RS, PS3.18 10.5); empty where it is stored, else why the service did not take it.

        Raises:
            UnreachableError: No answer, or the service is busy.
            ProtocolError: It refuses.
        """
        with _network_errors(self.name):
            try:
                answer = self._client.store_instances([dataset])
            except requests.exceptions.HTTPError as error:
                if error.response is None or error.response.status_code != _NONE_STORED:
                    raise
                return told(_failure_reason(error.response))
        failed = answer.get("FailedSOPSequence")
        return told(failed[0].get("FailureReason")) if failed else ""

    def problems(self) -> Sequence[Problem]:
        """See :meth:`client.sources.source.Source.problems`."""
        return self._problems

    def _search(self, level: str, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        """All answers to a query, page after page; a server may send fewer at a time, or all whatever is asked."""
        search: Any = {
            "study": self._client.search_for_studies,
            "series": self._client.search_for_series,
            "instance": self._client.search_for_instances,
        }[level]
        seen: set[str] = set()
        while True:
            with _network_errors(self.name):
                page = search(limit=PAGE, offset=len(seen), **arguments)
            if not all(isinstance(row, dict) for row in page):
                raise _no_dicomweb(self.name)
            fresh = [row for row in page if _text(row, _SIGNS[level]) not in seen]
            if not fresh:
                return
            for row in fresh:
                uid = _text(row, _SIGNS[level])
                seen.add(uid)
                if _UID.fullmatch(uid):
                    yield row
                else:
                    self._problems.append(Problem(self.name, f"it named a {level} without a valid UID"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()


def queries(selection: Selection) -> Iterator[dict[str, str]]:
    """The study queries that together ask for a selection, as attribute keywords with values (PS3.4 C.2.2.2)."""
    base: dict[str, str] = {}
    if selection.first or selection.last:
        first, last = (f"{day:%Y%m%d}" if day else "" for day in (selection.first, selection.last))
        base["StudyDate"] = f"{first}-{last}"
    for modality in sorted(selection.modalities) or [""]:
        for patient in sorted(selection.patients) or [""]:
            keys = {"ModalitiesInStudy": modality, "PatientID": patient}
            yield base | {name: value for name, value in keys.items() if value}


class _Bounded(HTTPAdapter):
    """Answers that may neither be larger than an instance may be nor last for ever."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        answer = super().send(request, *args, **options)
        whole, end = answer.raw.stream, time.monotonic() + LONGEST

        def stream(*a: Any, **k: Any) -> Iterator[bytes]:
            size = 0
            for chunk in whole(*a, **k):
                size += len(chunk)
                if size > LARGEST or time.monotonic() > end:
                    raise requests.exceptions.ContentDecodingError("the answer is too large or takes too long")
                yield chunk

        answer.raw.stream = stream
        return answer


class _network_errors:  # noqa: N801  # a context manager, named as one
    """Turn what goes wrong on the wire into an error for a person, or into one that is worth another try."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None:
            return
        name = self._name
        if isinstance(error, requests.exceptions.SSLError):
            raise ProtocolError(
                f"the certificate of {name} is not trusted", hint="name its authority with --ca, or check the host name"
            ) from error
        if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:
            code = error.response.status_code
            if code in {401, 403}:
                raise ProtocolError(
                    f"{name} refused us (HTTP {code})",
                    hint="check the file given to --credentials, and our rights there",
                ) from error
            if code in _BUSY:
                raise UnreachableError(f"answered HTTP {code}", "ask its administrator") from error
            raise ProtocolError(f"{name} answered HTTP {code}", hint="check the path of the DICOMweb URL") from error
        if isinstance(error, requests.exceptions.TooManyRedirects):
            raise ProtocolError(f"{name} sends us elsewhere", hint="name the final URL of the service") from error
        if isinstance(error, requests.exceptions.ContentDecodingError):
            raise ProtocolError(f"an answer of {name} is too large or takes too long", hint="check the URL") from error
        if isinstance(error, requests.exceptions.InvalidJSONError | ValueError):
            raise _no_dicomweb(name) from error
        if isinstance(error, requests.exceptions.RequestException):
            raise UnreachableError(
                "does not answer", "check the host, the port, the firewall and the service"
            ) from error


def _failure_reason(answer: requests.Response) -> int | None:
    """Failure Reason (0008,1197) of the first instance in an answer to STOW-RS; None where it tells none in JSON."""
    try:
        return int(answer.json()["00081198"]["Value"][0]["00081197"]["Value"][0])
    except (ValueError, LookupError, TypeError):
        return None


def _no_dicomweb(name: str) -> ProtocolError:
    return ProtocolError(f"{name} does not answer as a DICOMweb server does", hint="check the path of the DICOMweb URL")


def _single_part(answer: requests.Response, name: str) -> bytes:
    """The one part of a multipart answer (PS3.18 8.7.1; RFC 2046 5.1), or a bare instance as some servers send it."""
    kind = Message()
    kind["Content-Type"] = answer.headers.get("Content-Type", "")
    if kind.get_content_type() == "application/dicom":
        return answer.content
    boundary = kind.get_boundary()
    if kind.get_content_type() != "multipart/related" or not boundary:
        raise _no_dicomweb(name)
    body, delimiter = answer.content, b"--" + boundary.encode("latin-1", "replace")
    first = body.find(delimiter)
    start, end = body.find(b"\r\n\r\n", max(first, 0)), body.rfind(b"\r\n" + delimiter)
    if first < 0 or start < 0 or end < start + 4:
        raise UnreachableError("sent an answer that is cut short", "check the network")
    return body[start + 4 : end]


def _text(row: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute in the DICOM JSON model (PS3.18 F.2), as text."""
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values and values[0] is not None else ""


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
