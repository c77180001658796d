"""Drafts of the notices after a breach: plain text with what each law requires, and gaps where nobody said.

A draft is a beginning. What it says comes from the incident's record; a person checks it, fills the gaps and sends it.
"""

from datetime import UTC, datetime
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from compliance.clocks import Duty, Role
from compliance.incident_form import Incident
from compliance.party import Party

_BY_DUTY: Final = (
    ("GDPR-33-2", "notice-gdpr-33-2.txt"),
    ("GDPR-33", "notice-gdpr-33.txt"),
    ("GDPR-34", "notice-gdpr-34.txt"),
    ("HIPAA-164.404", "notice-hipaa-404.txt"),
    ("HIPAA-164.406", "notice-hipaa-404.txt"),
    ("HIPAA-164.408", "notice-hipaa-408.txt"),
    ("HIPAA-164.410", "notice-hipaa-410.txt"),
    ("PIPL-57", "notice-pipl-57.txt"),
)
GAP: Final = "[to be filled in: {}]"


def draft(incident: Incident, duty: Duty, party: Party, *, now: datetime | None = None) -> str:
    """The draft of one notice.

    Args:
        incident: What happened.
        duty: Whom it is for; one of the incident's.
        party: Who tells.
        now: The day of the draft; now where None.
    """
    template = next(name for begin, name in _BY_DUTY if duty.id.startswith(begin))
    made = (now or datetime.now(UTC)).astimezone(UTC)
    environment = Environment(
        loader=PackageLoader("compliance", "templates"),
        autoescape=False,  # noqa: S701  plain text for a letter, shown by no browser
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    breach = incident.breach
    return environment.get_template(template).render(
        incident=incident,
        breach=breach,
        duty=duty,
        party=party.name,
        processor=breach.role is Role.PROCESSOR,
        word=lambda name, what: incident.words.get(name) or GAP.format(what),
        number=_number(incident),
        aware=_when(breach.aware),
        discovered=_when(breach.discovered),
        due="at once" if duty.due is None else _when(duty.due),
        late=duty.overdue(made),
        made=_when(made),
    )


def _when(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _number(incident: Incident) -> str:
    known = [
        f"{site}: {'not known' if number is None else number}" for site, number in incident.breach.affected.items()
    ]
    if not known:
        return GAP.format("how many people")
    total = incident.breach.total
    return f"{'not known for every site' if total is None else f'about {total}'} ({', '.join(sorted(known))})"
