"""What an archive says of an object that it does not store, in words (PS3.7 Annex C, PS3.4 B.2.3, PS3.18 I.2.2)."""

from typing import Final

STORED: Final = frozenset({0x0000, 0xB000, 0xB006, 0xB007})
"""Success, and warnings of objects that are stored all the same: values coerced, elements discarded, a poor match."""
NOT_AUTHORIZED: Final = 0x0124
_WORDS: Final = {
    0x0110: "it failed to process it",
    0x0117: "not a valid instance to it",
    0x0122: "it does not support the SOP class",
    NOT_AUTHORIZED: "not authorized",
    0x0131: "it does not support the SOP class",
    0xC122: "it does not support the transfer syntax",
}
_FAMILIES: Final = {0xA7: "it is out of resources", 0xA9: "the data set does not match the SOP class to it"}


def no_resources(code: int) -> bool:
    """Whether a later try may do."""
    return code >> 8 == 0xA7


def told(code: int | None) -> str:
    """A status other than success, or a Failure Reason (0008,1197), for people."""
    if code is None:
        return "without a reason"
    family = _FAMILIES.get(code >> 8, "it cannot understand it" if code >> 12 == 0xC else "")
    words = _WORDS.get(code, family)
    return f"status 0x{code:04X}" + (f", {words}" if words else "")
