"""What a charter says to the record of processing and to the assessment, in words."""

from typing import Final

from compliance.party import Figure
from shared.charter import Charter
from shared.charter_check import needed

_CONTROLLER: Final = (
    "Recipients (Art. 30(1)(d))",
    "Countries of recipients (Art. 30(1)(e))",
    "Security measures (Art. 30(1)(g))",
)
_PROCESSOR: Final = ("Recipients", "Countries of recipients (Art. 30(2)(c))", "Security measures (Art. 30(2)(d))")
NOT_PINNED: Final = "charter.toml: there is none"


def recipients(charter: Charter | None, own: str, *, processor: bool = False) -> list[Figure]:
    """Recipients, transfers and security measures (GDPR Art. 30(1)(d), (e), (g); of a processor 30(2)(c), (d))."""
    to, countries_of, secured_by = _PROCESSOR if processor else _CONTROLLER
    if charter is None:
        return [
            Figure(to, None, NOT_PINNED),
            Figure(countries_of, None, NOT_PINNED),
            Figure(secured_by, None, NOT_PINNED),
        ]
    others = [one.name for one in charter.members if one.name != own]
    whom = "the coordinator" + (f" {charter.coordinator.name}" if charter.coordinator else "")
    what = "sums that were masked" if charter.masking else "updates in the clear"
    parties = [(one.name, one.country) for one in charter.members]
    parties += [(charter.coordinator.name, charter.coordinator.country)] if charter.coordinator else []
    countries = sorted({country for _, country in parties if country})
    silent = [name for name, country in parties if not country]
    said = ", ".join(countries) + (f"; not said by {', '.join(silent)}" if silent else "")
    return [
        Figure(
            to,
            f"{whom}: {what}; {', '.join(others) or 'members'}: the models made from them",
            "charter.toml: [coordinator], [[member]], [secure_aggregation]",
        ),
        Figure(
            countries_of,
            f"{said} (as the charter says; nobody proves it)" if countries else None,
            "charter.toml: country of coordinator and members",
        ),
        Figure("Safeguards of transfers (Art. 49(1))", None, "no file of fedward has them"),
        Figure(secured_by, measures(charter), "charter.toml; in detail: the controls below"),
    ]


def measures(charter: Charter) -> str:
    """Masks, noise and the connection, as the charter asks for them."""
    masks = charter.masking
    parts = [
        f"secure aggregation, {masks.threshold} of {len(charter.members)} members, none below "
        f"{masks.min_included} in a sum"
        if masks
        else "no secure aggregation",
        privacy(charter),
        "TLS 1.3 with certificates on both sides" if charter.coordinator else "no coordinator to connect to",
    ]
    return "; ".join(parts)


def privacy(charter: Charter) -> str:
    """The charter's differential privacy."""
    plan = charter.privacy
    if plan.mode == "off":
        return "no differential privacy"
    noise = "noise at every hospital" if plan.mode == "patient" else "shared noise"
    return f"differential privacy of patients, {noise}, noise multiplier {plan.noise_multiplier:g}"


def fewest(charter: Charter) -> tuple[str, str]:
    """So many hospitals a round needs to its end, and what says so."""
    if charter.masking is None:
        return str(charter.min_sites), "charter.toml: min_sites"
    return str(needed(charter)), "charter.toml: the greatest of min_sites and the quorum of [secure_aggregation]"


def operations(charter: Charter | None) -> list[Figure]:
    """The systematic description of the processing (GDPR Art. 35(7)(a))."""
    if charter is None:
        return [Figure("Processing operations (Art. 35(7)(a))", None, NOT_PINNED)]
    tasks = ", ".join(f"{plan.name} ({plan.rounds} rounds)" for plan in charter.tasks)
    return [
        Figure("Processing operations (Art. 35(7)(a))", f"training of {tasks}", "charter.toml: [[task]]"),
        Figure("Charter", charter.id, "charter.toml: id"),
        Figure("SHA-256 of the charter", charter.sha256, "charter.toml, in canonical form"),
        Figure("Fewest hospitals in a round", *fewest(charter)),
        Figure("Fewest patients of a hospital in training", str(charter.min_patients), "charter.toml: min_patients"),
        Figure("Privacy of patients", privacy(charter), "charter.toml: [privacy]"),
    ]
