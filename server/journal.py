"""The journal of one round: all that the coordinator's work in it depends on from outside, durable before it is used.

What a coordinator does in a round follows from its checkpoint and from three things: who was connected, the numbers of
new epochs, and what the sites answered. Each of them is an event, and a file or a folder here, in order::

    0001-connected.bin          names of sites
    0002-epoch.bin              a number
    0003-query.secagg_advertise/
        asked.bin               who is asked, and the SHA-256 of what
        from-H1.bin             the answer of H1 as it came
        closed.bin              whose answers count; with their SHA-256, and what the transport said of the others

A run that is resumed does the round again from its beginning with the same code. Where an event stands here, nobody is
asked; so it comes to where it was, with the same keys, participants and sums. In the question that was open the answers
that had come count, and the others are asked, also those who had said that their work was lost. Nothing is done with an
answer before its question is closed: one that is torn in an open question has not come, and in a closed one the round
cannot go on.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Array, RecordDict

from server.exchange import Arrival, Exchange, Once, Sending, is_lost, nobody, usable
from server.sealed import (
    PRIVATE_FOLDER,
    DamagedError,
    parts_to_record,
    read_parts,
    record_to_parts,
    write_parts,
)
from shared.errors import RecordError
from shared.files import output_errors, sync_folder
from shared.parsing import parse_json

ASKED, CLOSED, SUFFIX = "asked.bin", "closed.bin", ".bin"


class Journal:
    """The events of one round, from the first one on.

    Args:
        folder: For this journal alone; made where missing.

    Every method raises :class:`OutputError` where the disk will not take an event, and :class:`RecordError` where one
    is damaged, or is not the one that the work comes to: then release, charter or machine is not that of before.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)
        self._place, self._live = 0, False

    @property
    def live(self) -> bool:
        """Whether anything has happened in this round that was not in the journal when it was opened."""
        return self._live

    def value(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave when the round came here first: anything that JSON can say."""
        path = self._next(name + SUFFIX)
        if path.exists():
            try:
                return _said(path, self._hint)
            except DamagedError:
                if not self._last:
                    raise
        self._live = True
        value = make()
        write_parts(path, [json.dumps(value).encode()])
        return value

    def page(self, kind: str, contents: Mapping[str, RecordDict]) -> "Page":
        """The question of ``kind`` to the sites in ``contents``, new or as far as it has come."""
        page = Page(self._next(kind), contents, self._hint)
        self._live = self._live or not page.closed
        return page

    def go_on(self) -> bool:
        """See :meth:`server.exchange.Line.go_on`: true once for each time that the round ended and was resumed."""
        there = self._at(self._place + 1)
        if not (there and there.name.endswith("go-on" + SUFFIX)) and (self._live or there):
            return False
        return bool(self.value("go-on", lambda: True))

    @property
    def _hint(self) -> str:
        return (
            f"put the file back from a copy of the disk; or delete {self._folder}, and this round begins again under "
            "new keys: hospitals that had trained in it train, and pay, once more"
        )

    @property
    def _last(self) -> bool:
        return self._at(self._place + 1) is None

    def _at(self, place: int) -> Path | None:
        return next(iter(self._folder.glob(f"{place:04d}-*")), None)

    def _next(self, name: str) -> Path:
        self._place += 1
        path, there = self._folder / f"{self._place:04d}-{name}", self._at(self._place)
        if there not in (None, path):
            raise RecordError(
                f"{there} is not what the round comes to, '{name}': the journal is of another release or charter",
                hint="resume with the release that began the run",
            )
        return path


class Page:
    """One question of a round: who is asked, and the answers as they come.

    Args:
        folder: Of this page.
        contents: The question to each site, in the order in which the answers are taken.
        hint: What to do where a file of it is damaged.
    """

    def __init__(self, folder: Path, contents: Mapping[str, RecordDict], hint: str) -> None:
        self._folder, self._hint, self._sites = folder, hint, tuple(contents)
        make_folder(folder)
        self._ask(_digests(contents))
        self._close: dict[str, Any] | None = self._read(CLOSED) if (folder / CLOSED).exists() else None
        self._answers: dict[str, str] = dict(self._close["answers"]) if self._close else {}
        self._usable = 0
        for site in () if self._close else self._sites:
            self._take(site)
        self._kept = frozenset(self._answers)

    @property
    def closed(self) -> bool:
        """Whether all is there that counts."""
        return self._close is not None

    @property
    def wanting(self) -> tuple[str, ...]:
        """Whose answers are still to come."""
        return () if self.closed else tuple(site for site in self._sites if site not in self._answers)

    @property
    def answered(self) -> int:
        """How many answers had come when the page was opened, and are no refusals."""
        return self._usable

    def keep(self, site: str, content: RecordDict) -> str:
        """Make an answer durable; gives why it cannot be, in a word, or nothing. The first answer of a site counts."""
        parts = record_to_parts(content)
        if parts is None:
            return "the answer is no message of a federation"
        if site not in self._answers:
            self._answers[site] = write_parts(self._path(site), parts)
        return ""

    def close(self, failures: Mapping[str, str]) -> None:
        """What has come counts, and nothing that comes later."""
        self._close = {"answers": self._answers, "failures": dict(failures)}
        write_parts(self._folder / CLOSED, [json.dumps(self._close).encode()])

    def arrivals(self) -> Iterator[Arrival]:
        """What came, site by site, read when it is asked for; of a page that is closed."""
        assert self._close is not None  # noqa: S101  # see above
        for site in self._sites:
            if site in self._answers:
                parts, check = read_parts(self._path(site), hint=self._hint)
                if check != self._answers[site]:
                    raise DamagedError(f"{self._path(site)} is not the answer that counted", hint=self._hint)
                yield Arrival(site, parts_to_record(parts), kept=site in self._kept)
            elif site in self._close["failures"]:
                yield Arrival(site, None, self._close["failures"][site])

    def _ask(self, digests: Mapping[str, str]) -> None:
        """Note what is asked, or see that it is what was asked before."""
        path = self._folder / ASKED
        if not path.exists():
            write_parts(path, [json.dumps(digests).encode()])
        elif self._read(ASKED) != digests:
            raise RecordError(
                f"{self._folder} holds answers to another question than the one that the round comes to",
                hint="resume with the release, the charter and the kind of machine that began the run; " + self._hint,
            )

    def _read(self, name: str) -> Any:
        return _said(self._folder / name, self._hint)

    def _take(self, site: str) -> None:
        """Count the answer of an open page that is there; one that is torn, or that says that the work was lost, is
        removed, and has to come again.
        """
        path = self._path(site)
        if not path.exists():
            return
        try:
            parts, check = read_parts(path, hint=self._hint)
            content = parts_to_record(parts)
            counts, is_usable = not is_lost(content), usable(content)
        except (DamagedError, ValueError, KeyError, TypeError):
            counts = False
        if counts:
            self._usable += is_usable
            self._answers[site] = check
        else:
            with output_errors(path):
                path.unlink()

    def _path(self, site: str) -> Path:
        return self._folder / f"from-{site}{SUFFIX}"


class Journaled:
    """A line whose answers are on disk before they count (:class:`server.exchange.Line`).

    Answers are written as they come, and taken in the order of the sites: one is in memory at a time.

    Args:
        exchange: The line itself.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._journal: Journal | None = None

    def begin(self, journal: Journal) -> None:
        """From now on write into ``journal``, after what stands there."""
        self._journal = journal

    @property
    def sites(self) -> tuple[str, ...]:
        """See :class:`server.exchange.Line`."""
        return tuple(self._now.value("connected", lambda: list(self._exchange.sites)))

    def wait(self, wanted: Collection[str], count: int, deadline: float) -> tuple[str, ...]:
        """See :class:`server.exchange.Line`; not being there in time is no event: a run that is resumed waits again."""
        return tuple(self._now.value("connected", lambda: list(self._exchange.wait(wanted, count, deadline))))

    def ask(
        self,
        contents: Mapping[str, RecordDict],
        kind: str,
        deadline: float,
        *,
        enough: int = 0,
        sending: Sending = nobody,
    ) -> Iterator[Arrival]:
        """See :class:`server.exchange.Line`."""
        page = self._now.page(kind, contents)
        if not page.closed:
            wanting = {site: contents[site] for site in page.wanting}
            failures = {}
            for arrival in self._exchange.gather(
                wanting, kind, deadline, enough=max(0, enough - page.answered), sending=sending
            ):
                trouble = arrival.failure if arrival.content is None else page.keep(arrival.site, arrival.content)
                if trouble:
                    failures[arrival.site] = trouble
            page.close(failures)
        yield from page.arrivals()

    def once(self, name: str, make: Callable[[], Once]) -> Once:
        """See :class:`server.exchange.Line`."""
        found: Once = self._now.value(name, make)
        return found

    def go_on(self) -> bool:
        """See :class:`server.exchange.Line`."""
        return self._now.go_on()

    @property
    def _now(self) -> Journal:
        if self._journal is None:
            raise ValueError("no round has begun")
        return self._journal


def make_folder(folder: Path) -> None:
    """Make a folder durably where it is missing, and take away what a process that was killed had begun to write.

    Raises:
        OutputError: It cannot be made.
    """
    with output_errors(folder):
        if not folder.is_dir():
            folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            sync_folder(folder.parent)
        for part in folder.glob(".*.part"):
            part.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it; one that is missing is no error.

    Raises:
        OutputError: It cannot be removed.
    """
    with output_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)


def _said(path: Path, hint: str) -> Any:
    """What :meth:`Journal.value` wrote there."""
    try:
        return parse_json(_single(path, hint))
    except ValueError as error:
        raise DamagedError(f"{path} was made by another release", hint=hint) from error


def _single(path: Path, hint: str) -> bytes:
    parts, _ = read_parts(path, hint=hint)
    if len(parts) != 1:
        raise DamagedError(f"{path} was made by another release", hint=hint)
    return parts[0]


def _digests(contents: Mapping[str, RecordDict]) -> dict[str, str]:
    """The SHA-256 of the question to each site; one that many share is hashed once."""
    made: dict[int, str] = {}
    for content in contents.values():
        if id(content) not in made:
            made[id(content)] = _digest(content)
    return {site: made[id(content)] for site, content in contents.items()}


def _digest(content: RecordDict) -> str:
    seen = hashlib.sha256()
    for name, part in content.items():
        for key, value in part.items():
            data = value.data if isinstance(value, Array) else value
            raw = data if isinstance(data, bytes) else str(data).encode()
            seen.update(f"{name}|{key}|{len(raw)}|".encode())
            seen.update(raw)
    return seen.hexdigest()
