"""What the handlers share: the state of one file on its way through the engine, and how an element is taken out."""

from collections import Counter
from collections.abc import Callable

from client.deid.codec import Dataset, Element, Value
from client.deid.pseudonyms import Pseudonyms
from client.deid.text import Identifiers, encodings, readings

REMOVED = b"REMOVED"
TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"})
WIDTHS = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}
"""Bytes of one value, by VR (PS3.5 Table 6.2-1)."""


class FileState:
    """One file on its way through the engine: what the handlers need to know of it, and what they did.

    Attributes:
        identifiers: What to search the remaining values for.
        patient: The patient's pseudonym.
        shift: By how many days this patient's dates move.
        counts: How often each rule was applied.
        codecs: The encodings of the data set that is being walked.
        public_code: Whether that data set is a code of a public coding scheme.
        enter: De-identifies the items of a sequence.
    """

    __slots__ = ("codecs", "counts", "enter", "identifiers", "patient", "pseudonyms", "public_code", "seen", "shift")

    def __init__(
        self,
        identifiers: Identifiers,
        pseudonyms: Pseudonyms,
        identity: str,
        seen: dict[tuple[bytes, tuple[str, ...]], bool],
        enter: Callable[["FileState", list[Dataset]], list[Dataset]],
    ) -> None:
        self.identifiers, self.pseudonyms, self.seen, self.enter = identifiers, pseudonyms, seen, enter
        self.patient, self.shift = pseudonyms.patient(identity), pseudonyms.shift(identity)
        self.counts: Counter[str] = Counter()
        self.codecs = encodings("")
        self.public_code = False

    def identifies(self, value: bytes) -> bool:
        """Whether a text value names the patient; remembered, since the files of a series repeat their values."""
        asked = (value, self.codecs)
        answer = self.seen.get(asked)
        if answer is None:
            answer = any(self.identifiers.found_in(text) for text in readings(value, self.codecs))
            self.seen[asked] = answer
        return answer


Handler = Callable[[FileState, str, Value], Element | None]


def remove(state: FileState, _vr: str, _value: Value) -> Element | None:
    """Take the element out."""
    state.counts["removed"] += 1
    return None


def invalid(state: FileState) -> Element | None:
    """Take out an element whose value is not what its VR or its attribute says."""
    state.counts["invalid_removed"] += 1
    return None
