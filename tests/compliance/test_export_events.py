"""Every act has its place in DICOM's and FHIR's words."""

from pathlib import Path

import pytest
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as Concept

from compliance.export.events import DCM, EVENTS, OUTCOMES, OWN, Code, event_of, outcome_of
from compliance.log import Action, Outcome

# PS3.15 A.5.3: the action that each family's table asks for.
ACTIONS = {"110100": "E", "110103": "CRUD", "110106": "R", "110107": "C", "110110": "CRUD", "110113": "E"}
# A.5.3.1 and A.5.3.11 ask for a type of these.
TYPES = {"110100": {"110120", "110121"}, "110113": {str(code) for code in range(110126, 110139)}}


@pytest.mark.parametrize("action", Action)
def test_every_act_is_listed(action: Action) -> None:
    assert action.value in EVENTS, f"give {action} a line in compliance/export/events.py"


def test_every_outcome_is_listed() -> None:
    assert {one.value for one in Outcome} == set(OUTCOMES)
    assert set(OUTCOMES.values()) <= {"0", "4", "8", "12"}


def used() -> list[Code]:
    return [code for event in EVENTS.values() for code in (event.family, event.role, *event.types)]


@pytest.mark.parametrize("code", [one for one in dict.fromkeys(used()) if one.scheme == DCM])
def test_codes_mean_what_the_concept_dictionary_says(code: Code) -> None:
    names = (name for name in dir(codes.DCM) if name[0].isupper())
    concepts: dict[str, Concept] = {one.value: one for one in (getattr(codes.DCM, name) for name in names)}
    assert concepts[code.value].meaning == code.meaning


@pytest.mark.parametrize("name", EVENTS)
def test_a_family_of_the_standard_has_the_action_and_the_types_that_its_table_asks_for(name: str) -> None:
    event = EVENTS[name]
    if event.family.scheme == OWN:
        assert event.family.value == name
        return
    assert event.action in ACTIONS[event.family.value]
    wanted = TYPES.get(event.family.value)
    if wanted and not name.startswith("incident."):  # none of the standard's types is that of a breach
        assert {one.value for one in event.types} & wanted


def test_an_act_and_an_outcome_of_a_later_version_keep_their_name_and_are_no_success() -> None:
    event = event_of("moon.landing")
    assert (event.family, event.action) == (Code("moon.landing", "moon.landing", OWN), "E")
    assert outcome_of("perhaps") == "4"


def test_the_page_names_every_act() -> None:
    page = (Path(__file__).parents[2] / "docs" / "record-exports.md").read_text()
    table = page[page.index("## Which act becomes what") : page.index("## What it is not")]
    missing = [
        one.value for one in Action if f"`{one.value}`" not in table and f"`{one.value.split('.')[0]}.*`" not in table
    ]
    assert not missing
