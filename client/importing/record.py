"""Where the images of a data set are from: its files, its terms, who accepted them, and what was made of them.

``NODE/imports/NAME.json`` (0600), one for each data set; its digest stands in the audit log. A data set keeps its terms
and its settings: with others it would come in twice. Of a folder of DICOM it names neither patients nor files.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from client.enhance.derive import release
from client.importing.settings import Settings
from client.importing.source import Looked
from client.node import Node
from shared.console import plain
from shared.errors import RecordError, UsageError
from shared.files import canonical_json, output_errors, private_folder, write_json
from shared.parsing import parse_json

FOLDER: Final = "imports"
FORMAT: Final = 1
_LONGEST: Final = 1 << 20
_UNTOLD: Final = "not kept here: the reason may name a file or a folder, and they may name somebody"
_KEYS: Final = {"format", "dataset", "url", "terms", "settings", "imports", "cases", "problems"}
_TERMS: Final[Mapping[str, type]] = dict.fromkeys(("text", "sha256", "accepted_by", "accepted"), str)
_IMPORT: Final[Mapping[str, type]] = {"time": str, "fedward": str, "who": str, "studies": int}
_CASE: Final[Mapping[str, type]] = {
    **dict.fromkeys(("patient", "digest", "images", "modality", "noisy"), str),
    **dict.fromkeys(("files", "labels"), dict),
    "slices": int,
    "labelled": bool,
    "notes": list,
}


@dataclass(frozen=True)
class Terms:
    """On which terms a data set may be used.

    Attributes:
        text: The licence, as the user gives it.
        url: Where the data set is from, as text; nothing is fetched.
        who: Who accepted them.
    """

    text: str
    url: str
    who: str

    @classmethod
    def load(cls, path: Path, *, url: str, who: str) -> "Terms":
        """Terms from a text file.

        Raises:
            UsageError: It cannot be read, is empty, or is larger than 1 MiB; ``who`` is nobody; or
                ``who`` or ``url`` is more than one line.
        """
        if not who.strip():
            raise UsageError("nobody accepts the terms", hint="name with --who who does")
        if any(plain(one) != one or "\n" in one for one in (who, url)):
            raise UsageError("--who and --url are one line each", hint="leave out line breaks and control characters")
        hint = "name a text file (UTF-8) with the licence of the data set"
        try:
            if path.stat().st_size > _LONGEST:
                raise UsageError(f"the licence {path} is larger than {_LONGEST >> 20} MiB", hint=hint)
            text = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the licence {path}", hint=hint) from error
        if not text:
            raise UsageError(f"the licence {path} is empty", hint=hint)
        return cls(text, url, who)

    @property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Provenance:
    """The record of one data set, as JSON has it."""

    body: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical form (RFC 8785)."""
        return hashlib.sha256(canonical_json(dict(self.body))).hexdigest()

    @property
    def known(self) -> dict[str, Mapping[str, Any]]:
        """Its studies by digest."""
        return {str(row["digest"]): row for row in self.body["cases"]}

    def require(self, settings: Settings, terms: Terms) -> None:
        """Refuse to go on under other settings or terms.

        Raises:
            UsageError: They are others.
        """
        name = self.body["dataset"]
        before, now = self.body["settings"], settings.facts
        changed = [key for key in now if before.get(key) != now[key]]
        if changed:
            raise UsageError(
                f"{name} was imported with other settings before: {', '.join(changed)}",
                hint="give those of 'fedward data show', or import it into another node",
            )
        if self.body["terms"]["sha256"] != terms.digest:
            raise UsageError(
                f"{name} was imported under other terms before", hint="see 'fedward data show'; import under those"
            )


def path_of(node: Node, dataset: str) -> Path:
    """Where the record of a data set lies; names differ in more than the case of their letters."""
    return node.folder / FOLDER / f"{dataset.lower()}.json"


def read_record(path: Path) -> Provenance | None:
    """The record at ``path``; None where there is none.

    Raises:
        RecordError: It is damaged.
    """
    try:
        body = parse_json(path.read_bytes())
        if not isinstance(body, dict) or set(body) != _KEYS or body["format"] != FORMAT:
            raise RecordError(f"{path} is no record of an import", hint="restore it from a copy")
        for one, kinds in ((body["terms"], _TERMS), *((row, _IMPORT) for row in body["imports"])):
            _require_kinds(one, kinds)
        for row in body["cases"]:
            _require_kinds(row, _CASE)
        found = Provenance(body)
        _ = body["settings"].items()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}", hint="ask as the user whose it is") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path} is damaged", hint="restore it from a copy") from error
    return found


def _require_kinds(row: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """That a part of a record has what is read of it; KeyError or TypeError where it has not."""
    for name, kind in kinds.items():
        if not isinstance(row[name], kind):
            raise TypeError(name)


def records(node: Node) -> list[Provenance]:
    """The records of all data sets of a node, by name.

    Raises:
        RecordError: One is damaged.
    """
    folder = node.folder / FOLDER
    with output_errors(folder):
        paths: Sequence[Path] = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return [found for path in paths if (found := read_record(path))]


def write_record(path: Path, before: Provenance | None, settings: Settings, terms: Terms, looked: Looked) -> Provenance:
    """Write down what is about to be taken in; what an earlier import took in stays in the record.

    Raises:
        OutputError: It cannot be written.
    """
    named = settings.layout != "dicom"
    cases = (dict(before.known) if before else {}) | {one.digest: one.row(named=named) for one in looked.ready}
    earlier = list(before.body["imports"]) if before else []
    accepted = {"text": terms.text, "sha256": terms.digest, "accepted_by": terms.who, "accepted": _now()}
    made = Provenance(
        {
            "format": FORMAT,
            "dataset": settings.dataset,
            "url": terms.url,
            "terms": before.body["terms"] if before else accepted,
            "settings": settings.facts,
            "imports": [
                *earlier,
                {"time": _now(), "fedward": release(), "who": terms.who, "studies": len(looked.ready)},
            ],
            "cases": [cases[digest] for digest in sorted(cases)],
            "problems": [
                {"where": one.where if named else "", "reason": one.reason if named else _UNTOLD}
                for one in looked.problems
            ],
        }
    )
    private_folder(path.parent)
    write_json(path, dict(made.body), mode=0o600, durable=True)
    return made


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
