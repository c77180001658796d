"""The words of the de-identification page: what each rule count, option and finding means, for who is no engineer."""

from collections.abc import Mapping
from dataclasses import dataclass

from client.deid.check import Kind
from client.deid.report import OUTSIDE
from client.deid.tables import Option
from shared.page import humanise


@dataclass(frozen=True)
class RuleNote:
    """What a rule count is called, and what was done each time that it was counted."""

    title: str
    meaning: str


RULES: Mapping[str, RuleNote] = {
    "removed": RuleNote("Removed", "The attribute was taken out, value and all."),
    "private_removed": RuleNote("Private, removed", "A vendor's private attribute was taken out."),
    "emptied": RuleNote("Emptied", "The attribute stays, since its image class wants it, without a value."),
    "dummy": RuleNote("Dummy value", "The value was replaced by one that says nothing."),
    "pseudonym": RuleNote("Pseudonym", "Patient name or ID was replaced by a pseudonym made with the site's key."),
    "uid": RuleNote("UID replaced", "A UID was replaced by a keyed one, the same everywhere: links still hold."),
    "shifted": RuleNote("Date moved", "A date or time was moved with all others of its patient; intervals hold."),
    "year_only": RuleNote("Year only", "Of a date only the year stayed."),
    "cleaned": RuleNote("Text cleaned", "A description was reduced to known words of imaging."),
    "kept": RuleNote("Checked and kept", "A date, time or age that the profile retains; ages above 89 read 090Y."),
    "private_kept": RuleNote("Private, kept", "A private attribute that PS3.15 Table E.3.10-1 lists as safe was kept."),
    "identifier_found": RuleNote(
        "Identifier found", "A value that would have stayed held a name, number or date of this patient: it went."
    ),
    "local_code": RuleNote("Local code", "A code of a hospital's own list, which may be free text, was replaced."),
    "invalid_removed": RuleNote("Malformed", "A value that is not what its type says was taken out."),
    "cleared by a person": RuleNote("Cleared by a person", "A reviewer had looked at the picture and released it."),
    "face_flagged": RuleNote(
        "Face flagged", "A CT or MR of a head: a face could be rendered, and Recognizable Visual Features says so."
    ),
    "face_removed": RuleNote(
        "Face removed",
        "Eyes, nose, mouth and what lies about them were found in the series of this slice; there is background now.",
    ),
    "hidden_bits_cleared": RuleNote(
        "Hidden bits cleared", "Bits that no picture shows were set, as hidden overlays are; they were cleared."
    ),
    OUTSIDE: RuleNote(
        "Outside regions", "An ultrasound picture was blanked outside the regions that its header names."
    ),
    "invalid_date": RuleNote("Malformed date", "A date, time or age that is none was not kept."),
}

OPTIONS: Mapping[Option, str] = {
    Option.RETAIN_SAFE_PRIVATE: "Private attributes that the standard lists as safe stay.",
    Option.RETAIN_UIDS: "UIDs stay as they are.",
    Option.RETAIN_DEVICE_IDENTITY: "Identifiers of scanners stay.",
    Option.RETAIN_INSTITUTION_IDENTITY: "Names and addresses of institutions stay.",
    Option.RETAIN_PATIENT_CHARACTERISTICS: "Sex, age, size, weight and the like stay.",
    Option.RETAIN_LONG_FULL_DATES: "Dates stay as they are.",
    Option.RETAIN_LONG_MODIFIED_DATES: "Dates are moved, by the same number of days for each patient.",
    Option.CLEAN_DESCRIPTORS: "Descriptions are reduced to words of imaging.",
    Option.CLEAN_STRUCTURED_CONTENT: "Structured content is cleaned.",
    Option.CLEAN_GRAPHICS: "Graphics and overlays are cleaned.",
    Option.CLEAN_PIXEL_DATA: "Text that is found in pixels is blanked.",
    Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES: "Head scans, from which a face could be rendered, are held or defaced.",
    Option.RETAIN_YEARS: "Of dates, the year stays.",
}

_CHECK = "check_"


def rule(name: str) -> RuleNote:
    """What a rule count means; one that is not known is shown by its name."""
    if name.startswith(_CHECK):
        kind = Kind.__members__.get(name.removeprefix(_CHECK).upper())
        what = kind.value if kind else humanise(name.removeprefix(_CHECK)).lower()
        return RuleNote(f"Checker: {what}", "Other code found this in the finished file, which was held back for it.")
    return RULES.get(name) or RuleNote(humanise(name), "")
