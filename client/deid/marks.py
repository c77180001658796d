"""What a released file says of its pixels: that they were looked at, what was done, and whether they show a face."""

from dataclasses import replace

from client.deid.codec import Dataset, Part10
from client.deid.engine import Deidentified
from client.deid.faces import Defaced
from client.deid.pixels import Cleared
from client.deid.profile import Profile
from client.deid.report import OUTSIDE
from client.deid.tables import Option, method_codes

_METHOD_CODES, _BURNED_IN, _FACE, _DERIVATION = 0x00120064, 0x00280301, 0x00280302, 0x00082111


def marked(
    done: Deidentified,
    profile: Profile,
    cleared: Cleared | None,
    *,
    head: bool,
    hidden: bool = False,
    defaced: Defaced | None = None,
) -> Deidentified:
    """The file with Burned In Annotation, Recognizable Visual Features and the code of the option as they are true now.

    Clean Pixel Data (113101, CID 7050) is claimed where the profile has the option and this file's pixels were looked
    at; Burned In Annotation says NO wherever they were. Clean Recognizable Visual Features (113102) is claimed where
    the face was looked for and found in the file's series, also by files of it that the face does not reach.

    Args:
        done: The file after the engine.
        profile: The profile.
        cleared: What was done to its pixels; None where nobody looked at them.
        head: Whether a face could be rendered from it.
        hidden: Whether bits that no picture shows were set, and were cleared.
        defaced: What was done to its face; None where nobody looked for one.
    """
    if cleared is None and not head and not hidden and _FACE not in done.part10.dataset:
        return done
    dataset: Dataset = dict(done.part10.dataset)
    counts = dict(done.counts)
    dataset.pop(_FACE, None)  # an input's NO is somebody's word, which nothing here has checked
    if hidden:
        counts["hidden_bits_cleared"] = 1
    said: list[bytes] = []
    if defaced is not None:
        dataset[_FACE] = ("CS", b"NO")
        counts["face_removed"] = 1
        _claim(dataset, Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES)
        if defaced.pixels:
            said.append(b"Face replaced by background")
    elif head:
        dataset[_FACE] = ("CS", b"YES")
        counts["face_flagged"] = 1
    if cleared is not None:
        dataset[_BURNED_IN] = ("CS", b"NO")
        if cleared.outside:
            counts[OUTSIDE] = 1
        if profile.has(Option.CLEAN_PIXEL_DATA):
            _claim(dataset, Option.CLEAN_PIXEL_DATA)
        if cleared.recoded:
            said.append(b"Burned-in text blanked")
    if (cleared is not None and cleared.recoded) or (defaced is not None and defaced.recoded):
        said.append(b"frames stored without further loss")
    if said:
        dataset[_DERIVATION] = ("ST", b"; ".join(said))
    part10 = Part10(done.part10.syntax, done.part10.encoding, dataset)
    return replace(done, part10=part10, counts=counts)


def _claim(dataset: Dataset, option: Option) -> None:
    """Add the code of an option (CID 7050) to those that the file says were carried out."""
    codes = dataset[_METHOD_CODES][1]
    value, scheme, meaning = (part.encode() for part in method_codes()[option])
    code: Dataset = {0x00080100: ("SH", value), 0x00080102: ("SH", scheme), 0x00080104: ("LO", meaning)}
    dataset[_METHOD_CODES] = ("SQ", [*codes, code] if isinstance(codes, list) else [code])
