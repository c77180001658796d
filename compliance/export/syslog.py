"""Audit messages to a syslog collector over TLS: PS3.15 A.6, RFC 5424 messages in RFC 5425 frames.

Neither syslog nor TCP acknowledges a message. So messages go in batches, each over a connection of its own that ends
with our TLS close_notify; a batch counts as taken in once the receiver closes in turn, its system has acknowledged
every byte, and it sent no alert and no reset: it had then read all of it. What can still be lost is what a receiver
read and did not keep. What can come twice is a batch whose connection was cut: each message carries its leaf hash and,
as ``sequenceId``, its number in the log plus one, so that it can be told.
"""

import itertools
import re
import socket
import ssl
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from compliance.export.dicom import message
from compliance.export.events import outcome_of
from compliance.export.line import Line
from compliance.export.reading import Reader, Record
from shared.errors import ProtocolError, RecordError, UsageError
from shared.files import locked, private_folder, write_json
from shared.link_keys import check_key_file
from shared.parsing import parse_json

SCHEME: Final = "syslog+tls"
PORT: Final = 6514  # RFC 5425, section 4.1
BATCH: Final = 1000
SECONDS: Final = 30.0
LARGE: Final = 32768  # octets; every receiver takes so much (PS3.15 A.6)
_FACILITY: Final = 10  # security and authorization messages (PS3.15 A.6)
_NOTICE, _WARNING = 5, 4
_MSGID: Final = "DICOM+RFC3881"
_BOM: Final = b"\xef\xbb\xbf"  # RFC 5424, section 6.4: the text behind it is UTF-8
_MAX_SEQUENCE: Final = 2147483647  # RFC 5424, section 7.3.1
_MAX_HOST: Final = 255


@dataclass(frozen=True)
class Receiver:
    """Where a collector listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "Receiver":
        """The receiver that ``syslog+tls://HOST:PORT`` names; the port is 6514 where none is given.

        Raises:
            UsageError: It is no such address.
        """
        try:
            found = urllib.parse.urlsplit(url)
            host, port = found.hostname or "", found.port or PORT
        except ValueError:
            host = ""
        if not host or found.scheme != SCHEME or found.username or found.path.strip("/") or found.query:
            raise UsageError(f"'{url}' is no address of a syslog receiver", hint=f"write {SCHEME}://HOST:PORT")
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def tls_context(ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or later to a receiver whose certificate is of ``ca`` and for its name; ``certificate`` is our own.

    Raises:
        UsageError: A file is missing or is not what it should be.
        PolicyError: Others may read the key.
    """
    if (certificate is None) != (key is None):
        raise UsageError("a certificate needs its key, and a key its certificate", hint="name both or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{ca} holds no certificates of an authority", hint="name a PEM file") from error
    if certificate and key:
        check_key_file(key, missing="name the file of the key, PEM")
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            hint = "name PEM files of one certificate and its key without a password"
            raise UsageError(f"{certificate} and {key} do not fit together", hint=hint) from error
    return context


def _no_password() -> str:
    raise ValueError("a key with a password")  # or OpenSSL asks at the terminal, where a service has none


def frame(record: Record, checkpoint: str = "", host: str = "-") -> bytes:
    """The syslog message of ``record`` behind its count of octets (RFC 5425, section 4.3)."""
    severity = _NOTICE if outcome_of(record.outcome) == "0" else _WARNING
    data = f'[meta sequenceId="{record.index % _MAX_SEQUENCE + 1}"]'
    header = f"<{_FACILITY * 8 + severity}>1 {record.stamp} {host} fedward - {_MSGID} {data} "
    whole = header.encode("ascii") + _BOM + message(record, checkpoint)
    return str(len(whole)).encode("ascii") + b" " + whole


def this_host() -> str:
    """This machine's name as a syslog header may hold it (RFC 5424, section 6.2.4), or the sign for none."""
    return re.sub(r"[^\x21-\x7e]", "", socket.gethostname())[:_MAX_HOST] or "-"


@dataclass(frozen=True)
class Place:
    """How far a receiver has taken in a log: the index and the leaf hash of the last entry; -1 for none."""

    index: int = -1
    leaf: str = ""


@dataclass(frozen=True)
class State:
    """The file that remembers a :class:`Place` for one receiver and one selection.

    Attributes:
        path: The file; mode 0600.
        receiver: Whom it is about.
        selection: The facts of the selection: another one would leave other gaps.
    """

    path: Path
    receiver: str
    selection: dict[str, object]

    def read(self) -> Place:
        """The place that is remembered; the beginning where there is no file.

        Raises:
            RecordError: It is damaged.
            UsageError: It is about another receiver or selection.
        """
        try:
            found = parse_json(self.path.read_bytes())
            place = Place(found["index"], found["leaf"])
            sound = type(place.index) is int and place.index >= 0 and isinstance(place.leaf, str) and found["v"] == 1
            about = (found["receiver"], found["selection"])
        except FileNotFoundError:
            return Place()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged() from error
        if not sound:
            raise self._damaged()
        if about != (self.receiver, self.selection):
            raise UsageError(
                f"{self.path} remembers another export: to {about[0]}, with its own selection",
                hint="give that receiver and selection, or name another file with --state",
            )
        return place

    def _damaged(self) -> RecordError:
        return RecordError(f"{self.path} cannot be read or is damaged", hint="delete it: all is sent again then")

    def write(self, place: Place) -> None:
        """Remember ``place``, durably.

        Raises:
            OutputError: It cannot be written; the batch is sent again next time.
        """
        facts = {"v": 1, "receiver": self.receiver, "selection": self.selection, **asdict(place)}
        write_json(self.path, facts, mode=0o600, durable=True)


@dataclass(frozen=True)
class Sent:
    """What one export sent.

    Attributes:
        messages: Taken in by the receiver now.
        before: Taken in earlier.
        large: Of those sent now, how many are larger than every receiver must take.
    """

    messages: int
    before: int
    large: int


def send(
    reader: Reader,
    receiver: Receiver,
    context: ssl.SSLContext,
    state: State,
    *,
    checkpoint: str = "",
    batch: int = BATCH,
    seconds: float = SECONDS,
) -> Sent:
    """Send what ``receiver`` does not have yet.

    Args:
        reader: The chosen records.
        receiver: The collector.
        context: Of :func:`tls_context`.
        state: What it has; moved on after every batch that it took in.
        checkpoint: The log's newest, which rides in each message.
        batch: Messages a connection.
        seconds: How long the receiver may take to connect, to take in more, and to close.

    Raises:
        ProtocolError: It cannot be reached, is not who it should be, cut the connection or takes nothing in.
        RecordError: The log does not verify, is not the one that was sent, or another export to it is under way.
        OutputError: The state cannot be written.
    """
    private_folder(state.path.parent)
    lock = state.path.with_name(state.path.name + ".lock")
    messages = large = 0
    with locked(lock, f"another export to {receiver} is under way"):
        place = state.read()
        host = this_host()
        pending = _pending(reader, place)
        while records := list(itertools.islice(pending, batch)):
            frames = [frame(one, checkpoint, host) for one in records]
            _deliver(frames, receiver, context, seconds)
            state.write(Place(records[-1].index, records[-1].leaf))
            messages += len(frames)
            large += sum(len(one) > LARGE for one in frames)
    return Sent(messages, reader.taken - messages, large)


def _pending(reader: Reader, place: Place) -> Iterator[Record]:
    """The records behind ``place``, once the log is seen to be the one that was sent."""
    seen = place.index < 0
    for record in reader:
        if record.index > place.index:
            if not seen:
                break
            yield record
        elif record.index == place.index:
            seen = record.leaf == place.leaf
    if not seen:
        raise RecordError(
            f"entry {place.index} of {reader.log} is not the one that the receiver was sent",
            hint="find out which log was put in its place; name another --state to send this one from its beginning",
        )


def _deliver(frames: Iterable[bytes], receiver: Receiver, context: ssl.SSLContext, seconds: float) -> None:
    """Send one batch and wait until the receiver has read it (RFC 5425, section 4.4)."""
    with _troubles(receiver, seconds), Line(receiver.host, receiver.port, context, seconds) as line:
        for one in frames:
            line.send(one)
        line.finish()


@contextmanager
def _troubles(receiver: Receiver, seconds: float) -> Iterator[None]:
    """Turn what a connection dies of into one line that says what to do."""
    again = "; run the same command again: it goes on behind the last batch that was taken in"
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ProtocolError(
            f"the receiver {receiver} is not who it should be: {error.verify_message}",
            hint="name the authority of its certificate with --ca, and the receiver as its certificate does",
        ) from error
    except TimeoutError as error:
        raise ProtocolError(
            f"the receiver {receiver} took nothing in for {seconds:g} seconds", hint="look at the receiver" + again
        ) from error
    except ssl.SSLError as error:
        raise ProtocolError(
            f"no TLS with the receiver {receiver}: {error.reason or type(error).__name__}",
            hint="it may want a certificate of ours (--certificate, --key), or speak no TLS 1.2" + again,
        ) from error
    except OSError as error:
        raise ProtocolError(
            f"the connection to the receiver {receiver} failed: {error.strerror or error}",
            hint="check its address and that it runs" + again,
        ) from error
    except ValueError as error:  # of the name: a label too long, a leading dot
        raise UsageError(f"'{receiver.host}' is no name of a machine", hint="check the address") from error
