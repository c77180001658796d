"""What a released file says of its pixels: that they were looked at, what was done, and that they show a face."""

from dataclasses import replace

from client.deid.codec import Dataset, Part10
from client.deid.engine import Deidentified
from client.deid.pixels import Cleared
from client.deid.profile import Profile
from client.deid.report import OUTSIDE
from client.deid.tables import Option, method_codes

_METHOD_CODES, _BURNED_IN, _FACE, _DERIVATION = 0x00120064, 0x00280301, 0x00280302, 0x00082111


def marked(
    done: Deidentified, profile: Profile, cleared: Cleared | None, *, head: bool, hidden: bool = False
) -> Deidentified:
    """The file with Burned In Annotation, Recognizable Visual Features and the code of the option as they are true now.

    Clean Pixel Data (113101, CID 7050) is claimed where the profile has the option and this file's pixels were looked
    at; Burned In Annotation says NO wherever they were.

    Args:
        done: The file after the engine.
        profile: The profile.
        cleared: What was done to its pixels; None where nobody looked at them.
        head: Whether a face could be rendered from it.
        hidden: Whether bits that no picture shows were set, and were cleared.
    """
    if cleared is None and not head and not hidden and _FACE not in done.part10.dataset:
        return done
    dataset: Dataset = dict(done.part10.dataset)
    counts = dict(done.counts)
    dataset.pop(_FACE, None)  # an input's NO is somebody's word, which nothing here has checked
    if hidden:
        counts["hidden_bits_cleared"] = 1
    if head:
        dataset[_FACE] = ("CS", b"YES")
        counts["face_flagged"] = 1
    if cleared is not None:
        dataset[_BURNED_IN] = ("CS", b"NO")
        if cleared.outside:
            counts[OUTSIDE] = 1
        if profile.has(Option.CLEAN_PIXEL_DATA):
            codes = dataset[_METHOD_CODES][1]
            value, scheme, meaning = (part.encode() for part in method_codes()[Option.CLEAN_PIXEL_DATA])
            code: Dataset = {0x00080100: ("SH", value), 0x00080102: ("SH", scheme), 0x00080104: ("LO", meaning)}
            dataset[_METHOD_CODES] = ("SQ", [*codes, code] if isinstance(codes, list) else [code])
        if cleared.recoded:
            dataset[_DERIVATION] = ("ST", b"Burned-in text blanked; frames stored without further loss")
    part10 = Part10(done.part10.syntax, done.part10.encoding, dataset)
    return replace(done, part10=part10, counts=counts)
