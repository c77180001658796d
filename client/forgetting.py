"""Taking a patient out of the files of a node: each step may be done again, so that one that broke off goes on.

What is taken out: his de-identified files (``released/``), his cached images and his entry in the index of the cohort,
identified files that wait (``held/`` with their records, ``spool/``), the reports of his studies, and the hospital's
personal models that he was trained into. The side of the
split that he was on is kept where he may come back (rectification, GDPR Art. 16), and not where he may not (Art. 17).
"""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.answers import ANSWERS
from client.cohort_images import IMAGES
from client.lineage import Lineage
from client.node import HELD, Node
from client.personal_models import forget as forget_personal
from client.private_lines import Lines, Row, sweep_parts
from client.splits import Split, gone
from shared.errors import DataError
from shared.files import output_errors, sync_folder, write_json
from shared.parsing import parse_json

REPORT = "ingest.json"
_SHORT = 32  # digits of a digest that name the folder of a study's report


@dataclass(frozen=True)
class Forgotten:
    """What was taken out, for the record: numbers alone.

    Attributes:
        personal: Personal models that he was trained into.
        released: De-identified files.
        cached: Cached studies.
        held: Identified files that waited.
        studies: Studies of which ingest knew that it had taken them in.
        unread: Identified files that wait and cannot be read, so that nobody knows whose they are.
    """

    personal: int = 0
    released: int = 0
    cached: int = 0
    held: int = 0
    studies: int = 0
    unread: int = 0


def forget_answers(node: Node) -> None:
    """Delete the newest masked answers, so that none with a patient in it who has said no is sent again."""
    folder = node.folder / ANSWERS
    with output_errors(folder):
        for path in folder.glob("*.bin") if folder.is_dir() else ():
            path.unlink(missing_ok=True)


def forget_patient(node: Node, patient: str, *, returns: bool) -> Forgotten:
    """Take a patient out of the node's files. The caller holds the lock of ingest.

    Args:
        node: The hospital's node.
        patient: His pseudonym.
        returns: Whether his studies are to be taken in anew: then his side of the split is kept, and ingest forgets
            that it has them.

    Raises:
        OutputError: Something cannot be removed.
        DataError: The index of the cohort is damaged.
    """
    personal = forget_personal(node, patient)
    cached = _leave_index(node.folder / "cohort", patient, returns=returns)
    released = node.folder / "released" / patient
    files = sum(path.is_file() for path in released.rglob("*")) if released.is_dir() else 0
    _remove(released)
    held, unread = _forget_waiting(node, patient)
    digests = {str(row["study"]) for row in Lineage(node).taken() if row["patient"] == patient}
    for digest in digests:
        _remove(node.folder / "reports" / "ingest" / digest[:_SHORT])
    if digests or files or held:  # the report of the last ingest may name his studies
        for name in (REPORT, Path(REPORT).with_suffix(".html").name):
            _remove(node.folder / "reports" / name)
    if returns:
        _take_in_again(node.folder / "ingest.jsonl", digests)
    forget_answers(node)
    return Forgotten(personal, files, cached, held, len(digests), unread)


def owner_of(data: bytes, node: Node) -> str:
    """The pseudonym of the patient of a DICOM file, as de-identification gives it.

    Raises:
        MalformedError: It is no DICOM file that can be read without guessing.
    """
    from client.deid.codec import read  # noqa: PLC0415  # de-identification: a second
    from client.deid.collect import collect  # noqa: PLC0415
    from client.deid.pseudonyms import Pseudonyms, SiteKey  # noqa: PLC0415
    from client.deid.tables import vr_of  # noqa: PLC0415

    return Pseudonyms(SiteKey(node.key("pseudonym"))).patient(collect(read(data, vr_of).dataset, {}).patient)


def waits(node: Node, patient: str) -> bool:
    """Whether an identified file of a patient waits in the node; files that cannot be read are nobody's."""
    from client.deid.codec import MalformedError  # noqa: PLC0415

    for place, _ in _waiting(node):
        with suppress(OSError, MalformedError):
            if owner_of(place.read_bytes(), node) == patient:
                return True
    return False


def _leave_index(folder: Path, patient: str, *, returns: bool) -> int:
    """Take a patient out of the index, then his images out of the cache; how many there were."""
    path = folder / "index.json"
    if not path.exists():
        return 0
    try:
        raw: dict[str, Any] = parse_json(path.read_bytes())
        mine = [row for row in raw["patients"] if row["key"] == patient]
        remembered = {key: side.value for key, side in gone(folder).items()}
        files = [str(study["file"]) for row in mine for study in row["studies"]]
        if returns:
            remembered |= {row["key"]: Split(row["split"]).value for row in mine}
        else:
            remembered.pop(patient, None)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the cohort index in {folder} is damaged", hint="restore it from a copy") from error
    sweep_parts(path)
    for name in files:  # before the index forgets their names
        with output_errors(folder):
            (folder / IMAGES / Path(name).name).unlink(missing_ok=True)
    others = [row for row in raw["patients"] if row["key"] != patient]
    if mine or remembered != raw.get("gone", {}):
        write_json(path, raw | {"patients": others, "gone": remembered}, durable=True)
    return len(files)


def _forget_waiting(node: Node, patient: str) -> tuple[int, int]:
    """Remove a patient's identified files that wait; how many, and how many could not be read."""
    from client.deid.codec import MalformedError  # noqa: PLC0415

    found = unread = 0
    for place, record in _waiting(node):
        try:
            mine = owner_of(place.read_bytes(), node) == patient
        except (OSError, MalformedError):
            unread += 1
            continue
        if mine:
            _remove(place.parent if record else place)
            if record:
                _remove(record)
            found += 1
    return found, unread


def _waiting(node: Node) -> Iterator[tuple[Path, Path | None]]:
    """Every identified file in the node, and where a record says why it is held that record."""
    shelf, records = node.folder / HELD, node.folder / "reports" / "quarantine"
    for folder in sorted(shelf.iterdir()) if shelf.is_dir() else ():
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield path, records / f"{folder.name}.json"
    spool = node.folder / "spool"
    for path in sorted(spool.rglob("*")) if spool.is_dir() else ():
        if path.is_file():
            yield path, None


def _take_in_again(path: Path, studies: set[str]) -> None:
    """Have ingest forget that it has some studies (by their keyed digests)."""

    def kept(row: Row) -> Row | None:
        return None if row.get("study") in studies else row

    if studies and path.exists():
        Lines(path).rewrite(kept)


def _remove(path: Path) -> None:
    with output_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            path.unlink()
        else:
            return
        sync_folder(path.parent)
