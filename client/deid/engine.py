"""The engine: one parsed file in, the same file without what identifies a patient out.

Every element of every data set, at any depth, goes through the handler that the profile's rule for its tag compiles to.
What has no rule is removed. A handler returns the element as it goes on, or None; nothing else reaches the output.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from client.deid.actions import Action, basic_actions
from client.deid.codec import Bytes, Dataset, Element, Part10, Value, write
from client.deid.collect import Collected, collect, kinds_of_identifiers
from client.deid.handlers import compile_action, default_action
from client.deid.keeping import keep, private_definition
from client.deid.profile import Profile
from client.deid.pseudonyms import Pseudonyms, SiteKey
from client.deid.state import FileState, Handler, remove
from client.deid.tables import Option, SopClass, edition, method_codes, released, rules, safe_private
from client.deid.text import Identifiers, encodings

IMPLEMENTATION_UID = "2.25.302044926318547093816625384117392850613"
IMPLEMENTATION_NAME = "FEDWARD_0_1"

_CHARACTER_SET, _SCHEME = 0x00080005, 0x00080102
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_NAME, _ID = 0x00100010, 0x00100020
_PATIENTS_REMEMBERED = 32
_PIXEL_GROUP = 0x7FE0

# The options that are carried out here; those that act on pixels are claimed where pixels are looked at.
_CARRIED_OUT = frozenset(Option) - {
    Option.CLEAN_PIXEL_DATA,
    Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES,
    Option.RETAIN_YEARS,
}

_Seen = dict[tuple[bytes, tuple[str, ...]], bool]


@dataclass(frozen=True)
class Deidentified:
    """A file as it may go out.

    Attributes:
        part10: The data set and its encoding.
        meta: The file meta information.
        path: Where it belongs below the output folder: patient, study, series, instance, all pseudonymous.
        counts: How often each rule was applied; never a value.
    """

    part10: Part10
    meta: Dataset
    path: PurePosixPath
    counts: Mapping[str, int]

    def chunks(self) -> list[Bytes]:
        """The bytes of the file, in order."""
        return write(self.part10, self.meta)


class Engine:
    """Applies one profile under one site key.

    Args:
        profile: What is done to which attribute.
        key: The site's key, from which pseudonyms and date shifts are made.
    """

    def __init__(self, profile: Profile, key: SiteKey) -> None:
        self._profile = profile
        self._pseudonyms = Pseudonyms(key)
        self._plans: dict[str, _Plan] = {}
        self._nested = _Plan(profile, None, top=False)
        self._patients: OrderedDict[Collected, tuple[Identifiers, _Seen]] = OrderedDict()
        self._private: dict[str, Handler] = {}
        # What the profile keeps on purpose is no identifier to it, and must not be found in itself.
        kept = {tag for tag, rule in profile.rules.items() if rule.required in {Action.KEEP, Action.CLEAN}}
        self._kinds = {tag: kind for tag, kind in kinds_of_identifiers().items() if tag not in kept}
        self._schemes = rules().schemes
        self._codes = _method_codes(profile)
        self._method, self._temporal = _method(profile), _temporal(profile)

    def deidentify(self, part10: Part10) -> Deidentified:
        """De-identify a parsed file; the file itself is not changed.

        Args:
            part10: A file with its SOP Class, SOP Instance, Study and Series UIDs (:func:`client.deid.triage.refusal`).
        """
        dataset = part10.dataset
        sop_class = text_of(dataset, _SOP_CLASS)
        plan = self._plans.get(sop_class)
        if plan is None:
            plan = self._plans[sop_class] = _Plan(self._profile, released().get(sop_class), top=True)
        collected = collect(dataset, self._kinds)
        identifiers, seen = self._known(collected)
        state = FileState(identifiers, self._pseudonyms, collected.patient, seen, self._enter)
        kept = self._walk(state, dataset, plan)
        self._mark(kept, state)
        sop_instance = text_of(kept, _SOP_INSTANCE)
        path = PurePosixPath(state.patient, text_of(kept, _STUDY), text_of(kept, _SERIES), f"{sop_instance}.dcm")
        meta = _meta(sop_class, sop_instance, part10.syntax)
        return Deidentified(Part10(part10.syntax, part10.encoding, kept), meta, path, dict(state.counts))

    def _known(self, collected: Collected) -> tuple[Identifiers, _Seen]:
        """The search terms for a patient and the values that were searched already; slices share their headers."""
        known = self._patients.get(collected)
        if known is None:
            known = self._patients[collected] = (collected.identifiers(), {})
            if len(self._patients) > _PATIENTS_REMEMBERED:
                self._patients.popitem(last=False)
        return known

    def _enter(self, state: FileState, items: list[Dataset]) -> list[Dataset]:
        return [self._walk(state, item, self._nested) for item in items]

    def _walk(self, state: FileState, dataset: Dataset, plan: "_Plan") -> Dataset:
        codecs, public_code = state.codecs, state.public_code
        scheme = dataset.get(_SCHEME)
        state.public_code = scheme is not None and text_of(dataset, _SCHEME) in self._schemes
        declared = dataset.get(_CHARACTER_SET)
        if declared is not None and isinstance(declared[1], bytes):
            state.codecs = encodings(declared[1].decode("ascii", "replace").strip(" \0"))
        kept: Dataset = {}
        private = False
        for tag, (vr, value) in dataset.items():
            if tag & 0x10000:
                private = True
                continue
            element = plan[tag](state, vr, value)
            if element is not None:
                kept[tag] = element
        if private:
            self._walk_private(state, dataset, kept)
        state.codecs, state.public_code = codecs, public_code
        return kept

    def _walk_private(self, state: FileState, dataset: Dataset, kept: Dataset) -> None:
        """Drop the private attributes, but for those of Table E.3.10-1 where the profile retains them."""
        retain = self._profile.has(Option.RETAIN_SAFE_PRIVATE)
        for tag in [tag for tag in dataset if tag & 0x10000]:
            element = self._safe_private(state, dataset, tag) if retain else None
            if element is None:
                state.counts["private_removed"] += 1
                continue
            creator = tag & 0xFFFF0000 | tag >> 8 & 0xFF
            kept[tag], kept[creator] = element, ("LO", text_of(dataset, creator).encode())
            state.counts["private_kept"] += 1

    def _safe_private(self, state: FileState, dataset: Dataset, tag: int) -> Element | None:
        block = tag >> 8 & 0xFF
        if block < 0x10:
            return None
        creator = text_of(dataset, tag & 0xFFFF0000 | block)
        vr = safe_private().get((creator, tag >> 16, tag & 0xFF))
        if vr is None:
            return None
        found, value = dataset[tag]
        handler = self._private.get(vr)
        if handler is None:
            handler = self._private[vr] = keep(tag, private_definition(vr))
        return handler(state, vr if found == "UN" else found, value)

    def _mark(self, kept: Dataset, state: FileState) -> None:
        """Say in the file what was done to it (PS3.3 C.7.1.1 and C.12.1; PS3.15 E.2 and E.3)."""
        kept[_NAME], kept[_ID] = ("PN", state.patient.encode()), ("LO", state.patient.encode())
        kept[0x00120062] = ("CS", b"YES")
        kept[0x00120063] = ("LO", self._method)
        kept[0x00120064] = ("SQ", self._codes)
        kept[0x00280303] = ("CS", self._temporal)


class _Plan(dict[int, Handler]):
    """The handler of every tag that was met so far, for one SOP class at the top level, or for nested items."""

    def __init__(self, profile: Profile, sop_class: SopClass | None, *, top: bool) -> None:
        super().__init__()
        self._profile, self._sop_class, self._top = profile, sop_class, top

    def __missing__(self, tag: int) -> Handler:
        if not self._top and tag >> 16 == _PIXEL_GROUP:
            return self.setdefault(tag, remove)  # a picture inside an item is an icon, and icons are not looked at
        type_of = self._type(tag)
        rule = self._profile.rules.get(tag)
        action = rule.by_type(type_of) if rule else default_action(tag)
        handler = self[tag] = compile_action(
            tag, action, basic_actions(tag).by_type(type_of), explicit=rule is not None
        )
        return handler

    def _type(self, tag: int) -> int:
        """The type of an attribute; 1 where it is not known, so that what may be required keeps a value."""
        if not self._top or self._sop_class is None or tag in self._sop_class.type_1:
            return 1
        return 2 if tag in self._sop_class.type_2 else 3


def text_of(dataset: Dataset, tag: int) -> str:
    """The value of an ASCII attribute without padding; empty where it is missing or no text."""
    value: Value = dataset.get(tag, ("", b""))[1]
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


def _meta(sop_class: str, sop_instance: str, syntax: str) -> Dataset:
    """The file meta information, written anew: who sent or stored the file before is nobody's business (PS3.10 7.1)."""
    return {
        0x00020001: ("OB", b"\0\1"),
        0x00020002: ("UI", sop_class.encode()),
        0x00020003: ("UI", sop_instance.encode()),
        0x00020010: ("UI", syntax.encode()),
        0x00020012: ("UI", IMPLEMENTATION_UID.encode()),
        0x00020013: ("SH", IMPLEMENTATION_NAME.encode()),
    }


def _temporal(profile: Profile) -> bytes:
    """Longitudinal Temporal Information Modified: modified as soon as any date is (PS3.3 C.12.1.1.10)."""
    if any(rule.required in {Action.SHIFT, Action.YEAR} for rule in profile.rules.values()):
        return b"MODIFIED"
    return b"UNMODIFIED" if profile.has(Option.RETAIN_LONG_FULL_DATES) else b"REMOVED"


def _method(profile: Profile) -> bytes:
    name = f"fedward profile {profile.name}".encode("ascii", "replace")[:64].replace(b"\\", b"?")
    return b"\\".join([name, profile.sha256.encode(), f"DICOM PS3.15 {edition()}".encode()])


def _method_codes(profile: Profile) -> list[Dataset]:
    """De-identification Method Code Sequence: the Basic Profile and those options that were carried out (CID 7050)."""
    names = ["basic_profile", *sorted(profile.options & _CARRIED_OUT)]
    codes = (method_codes()[name] for name in names)
    return [
        {0x00080100: ("SH", value.encode()), 0x00080102: ("SH", scheme.encode()), 0x00080104: ("LO", meaning.encode())}
        for value, scheme, meaning in codes
    ]
