"""The model card: what is known of a model under the headings of Annex IV of the EU AI Act (Regulation (EU) 2024/1689).

It is evidence that a provider can use for technical documentation (Art. 11), and no assessment. What fedward does not
know is named as a gap, and the list of gaps stands on top. Text from outside is escaped, so that it can neither pass
for a heading of ours nor carry a link.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from server.card_evaluation import Evaluation
from shared.charter import Charter
from shared.errors import UsageError
from shared.page import visible
from shared.parsing import parse_toml
from shared.quality import Cell
from shared.statement import Statement

GAP: Final = "not recorded; to be filled in by the provider"
MAX_FACTS: Final = 65_536  # bytes
LONGEST: Final = 8_000
FACTS: Final[Mapping[str, str]] = {
    "provider": "name and address of the provider",
    "intended_users": "who is to use it, and on which patients",
    "out_of_scope": "uses that are not intended",
    "integration": "hardware and software that it works with, forms of delivery, instructions for use",
    "data_collection": "how the hospitals' data was obtained, selected, labelled and cleaned",
    "human_oversight": "human oversight measures (Art. 14)",
    "predetermined_changes": "changes that were determined in advance",
    "validation": "validation beyond the federation's held-out patients: external data, reader studies, test reports",
    "cybersecurity": "cybersecurity of the system that uses the model",
    "unintended_outcomes": "foreseeable unintended outcomes and sources of risk",
    "metrics_appropriate": "why these metrics fit the intended purpose",
    "risk_management": "the risk management system (Art. 9)",
    "standards": "harmonised standards that are applied, or other solutions",
    "declaration": "the EU declaration of conformity (Art. 47)",
    "post_market": "the post-market monitoring plan (Art. 72)",
}
"""What only the provider knows: the keys of the file of ``--facts``, and what each is."""
_MARKS: Final = re.compile(r"([\\`*_{}\[\]()#!|~@$^])")
_LINK: Final = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp):|\b(www)\.")
_START: Final = re.compile(r"^(?:[-=+]|\d+(?=[.)](?:\s|$)))")


class Md(str):
    """Text that is Markdown already."""

    __slots__ = ()


def md(value: object) -> Md:
    """A value as Markdown that shows it, whatever it is: no mark-up, no link, no HTML, one line."""
    if isinstance(value, Md):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = " ".join(visible(" ".join(str(value).split()), LONGEST).split())
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        text = _START.sub(_escaped_start, _MARKS.sub(r"\\\1", text))
        return Md(_LINK.sub(lambda found: f"{found[1]}&#58;" if found[1] else f"{found[2]}&#46;", text))
    return Md(f"{value:.6g}" if isinstance(value, float) else str(value))


def _escaped_start(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


@dataclass(frozen=True)
class Known:
    """What a card is written from.

    Attributes:
        manifest: As it will stand in ``manifest.json``, without the list of files.
        charter: The charter.
        statements: Of the hospitals.
        history: ``history.json``.
        facts: What the provider says, by the keys of :data:`FACTS`.
        evaluations: What the provider attaches of 'fedward evaluate'.
        title: Name of the task for people.
        metric: Name of its main metric.
    """

    manifest: Mapping[str, Any]
    charter: Charter
    statements: Sequence[Statement]
    history: Mapping[str, Any]
    facts: Mapping[str, str] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    title: str = ""
    metric: str = ""

    @property
    def cells(self) -> list[tuple[str, Cell]]:
        """Quality by groups, with the hospital whose patients they are."""
        task = self.manifest["task"]
        return [(one.site, cell) for one in self.statements for cell in one.quality if cell.task == task]


def read_facts(raw: bytes, where: str) -> dict[str, str]:
    """What the provider says, from a TOML file with some of the keys of :data:`FACTS`.

    Raises:
        UsageError: It is none, has another key, or a text that is too long.
    """
    hint = "its keys, each with a text, are " + ", ".join(FACTS)
    try:
        found = parse_toml(raw[:MAX_FACTS].decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{where} is not TOML: {error}", hint=hint) from error
    if len(raw) > MAX_FACTS:
        raise UsageError(f"{where} is larger than {MAX_FACTS} bytes", hint="name a file of texts")
    for key, value in found.items():
        if key not in FACTS:
            raise UsageError(f"{where} has an unknown key {key!r}", hint=hint)
        if not isinstance(value, str) or not value.strip() or len(value) > LONGEST:
            raise UsageError(f"{where}: {key} must be a text of at most {LONGEST} characters", hint=hint)
    return found


def write_card(known: Known) -> tuple[str, tuple[str, ...]]:
    """The card, and what is missing in it."""
    gaps: list[str] = []
    template = _environment().get_template("card.md.j2")
    text = template.render(
        m=known.manifest,
        c=known.charter,
        plan=known.charter.task(str(known.manifest["task"])),
        statements=known.statements,
        cells=known.cells,
        history=known.history,
        evaluations=known.evaluations,
        title=known.title,
        metric=known.metric,
        given=partial(_given, known.facts, gaps),
        gap=partial(_gap, gaps),
        gaps=gaps,
        paragraphs=_paragraphs,
    )
    return text, tuple(gaps)


def _given(facts: Mapping[str, str], gaps: list[str], key: str) -> Md:
    """What the provider says, paragraph by paragraph; or a gap."""
    return _paragraphs(facts[key]) if key in facts else _gap(gaps, FACTS[key])


def _gap(gaps: list[str], what: str) -> Md:
    if what not in gaps:
        gaps.append(what)
    return Md(f"*{what[:1].upper()}{what[1:]}: {GAP}.*")


def _paragraphs(text: str) -> Md:
    parts = [md(part) for part in re.split(r"\n\s*\n", text) if part.strip()]
    return Md("\n\n".join(parts))


def _environment() -> Environment:
    """Values are escaped whatever a template forgets (``finalize``); autoescape would be that of HTML."""
    made = Environment(  # noqa: S701  # Markdown, not HTML
        loader=PackageLoader("server", "templates"),
        undefined=StrictUndefined,
        finalize=md,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["raw"] = Md
    return made
