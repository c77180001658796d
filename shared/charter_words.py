"""A charter in plain words: who takes part, what is trained, what the coordinator learns, and what protects nobody.

``docs/secure-aggregation.md`` is the page behind these sentences; a test holds the two against each other.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.bundle import digest
from shared.charter import Charter, TaskPlan
from shared.charter_check import cautions, needed
from shared.console import plural
from shared.identity import fingerprint, grouped
from shared.noise_shares import NoisePlan
from shared.secagg.codec import Codec
from shared.secagg.federation import Federation

HEADER_BYTES: Final = 144  # of an upload with up to six metrics, beside the vector

LEARNS: Final = (
    "the weighted sum of the updates of a round",
    "the sum of the weights",
    "the sums of the metrics",
    "who took part, who dropped out, and when each answered",
    "why a hospital refuses, in one line without data of patients, such as too few patients for a task",
)
LEARNS_SHARED: Final = (
    "of a round of training the sum of all hospitals' clipped gradients with all their noise in it",
    "how many hospitals are in it",
    "of an evaluation the sums of the metrics",
    *LEARNS[3:],
)
NEVER_LEARNS: Final = (
    "a single hospital's update, weight or metric from a round, also if it lies, replays or invents members; and a "
    "hospital is not summed a second time in the same round with others"
)
READS_ALL: Final = "every hospital's update and weight: there is no [secure_aggregation]"
SCORES_OPEN: Final = "every hospital's losses and scores: the charter consents to that (privacy.scores)"
NO_SCORES: Final = "no score: there are no masks and no consent to them (privacy.scores), so nothing is evaluated"

NOT_PROTECTED: Final = (
    "poisoning: a hospital can send a harmful update; honest code clips it, a dishonest one need not",
    "a wrong published model: the coordinator can publish another average than the one it computed",
    "denial of service: the coordinator, or one hospital with a spoilt vector, can end any round",
)
SUMS_TELL: Final = (
    "what the sums and the model tell: differences over rounds, membership inference; only differential privacy bounds "
    "it"
)


@dataclass(frozen=True)
class Section:
    """A heading and the sentences under it."""

    title: str
    lines: tuple[str, ...]


def not_protected(charter: Charter) -> tuple[str, ...]:
    """What this charter protects nobody from."""
    bounded = (
        "; here by the epsilon of each patient, which grows with every round"
        if charter.privacy.mode != "off"
        else "; here privacy is off, and nothing bounds it"
    )
    if charter.masking is None:
        first = (
            "reading: the coordinator reads every hospital's update; only virtual hospitals may take part, because "
            "an update tells of the images that it was made from",
        )
    else:
        plan = charter.masking
        first = (
            f"collusion: where more than c = {plan.colluding} of the hospitals work with the coordinator, they may "
            "learn another one's update",
        )
    return (*first, SUMS_TELL + bounded, *NOT_PROTECTED)


def explain(charter: Charter, *, site: str = "") -> tuple[Section, ...]:
    """The charter in sections for people.

    Args:
        charter: What is explained.
        site: The hospital that reads it, marked among the members; may be empty.
    """
    sections = [
        Section(
            f"Federation {charter.id}",
            (f"purpose: {charter.purpose}", f"SHA-256: {grouped(charter.sha256)}"),
        ),
        _members(charter, site),
        Section("Coordinator", _coordinator(charter)),
        Section("What is trained", tuple(_task(plan) for plan in charter.tasks) + _rules(charter)),
        Section("Privacy of patients", _privacy(charter)),
    ]
    if charter.masking is not None:
        sections.append(Section("Secure aggregation", _masking(charter)))
    sections.append(Section("What the coordinator learns", _learns(charter)))
    if charter.masking is not None:
        sections.append(Section("What it does not learn", (NEVER_LEARNS,)))
    sections.append(Section("What this does not protect", not_protected(charter)))
    sections.append(Section("Installed here", (f"app digest of this release: {digest()}",)))
    if found := cautions(charter):
        sections.append(Section("Warnings", tuple(one.text for one in found)))
    return tuple(sections)


def lines(sections: Sequence[Section]) -> list[str]:
    """The sections as lines for a terminal."""
    return [line for one in sections for line in (one.title, *(f"  - {text}" for text in one.lines))]


def facts(charter: Charter) -> dict[str, Any]:
    """The same for programs; the keys are stable."""
    masked = charter.masking is not None
    return {
        "federation": charter.id,
        "purpose": charter.purpose,
        "sha256": charter.sha256,
        "members": [
            {"index": index, **dataclasses.asdict(one), "fingerprint": fingerprint(bytes.fromhex(one.identity))}
            for index, one in enumerate(charter.members, start=1)
        ],
        "coordinator": None if charter.coordinator is None else dataclasses.asdict(charter.coordinator),
        "installed_app": digest(),
        "tasks": [dataclasses.asdict(plan) for plan in charter.tasks],
        "privacy": dataclasses.asdict(charter.privacy),
        "min_sites": charter.min_sites,
        "min_patients": charter.min_patients,
        "deadline": charter.deadline,
        "secure_aggregation": _masking_facts(charter) if masked else None,
        "shared_noise": _shared_facts(charter) if charter.privacy.mode == "distributed" else None,
        "coordinator_learns": list(_learns(charter)),
        "coordinator_does_not_learn": [NEVER_LEARNS] if masked else [],
        "not_protected": list(not_protected(charter)),
        "warnings": [dataclasses.asdict(one) for one in cautions(charter)],
    }


def _learns(charter: Charter) -> tuple[str, ...]:
    if charter.masking is None:
        return READS_ALL, SCORES_OPEN if charter.scores_leave else NO_SCORES
    return LEARNS_SHARED if charter.privacy.mode == "distributed" else LEARNS


def _members(charter: Charter, site: str) -> Section:
    found = tuple(
        f"{index}. {one.name}{' (this hospital)' if one.name == site else ''}, fingerprint "
        f"{fingerprint(bytes.fromhex(one.identity))}{_where(one.country)}"
        for index, one in enumerate(charter.members, start=1)
    )
    return Section("Members", found or ("none are named: any virtual hospital may take part",))


def _task(plan: TaskPlan) -> str:
    every = "round" if plan.evaluate_every == 1 else f"{plan.evaluate_every} rounds"
    pull = f", FedProx with mu {plan.proximal:g}" if plan.proximal else ""
    return (
        f"{plan.name}: {plural(plan.rounds, 'round')}; at each hospital {plural(plan.local_steps, 'step')} of "
        f"{plan.local_optimizer} at "
        f"rate {plan.local_lr:g}{pull}; at the coordinator {plan.server_optimizer} at rate {plan.server_lr:g}; "
        f"an evaluation every {every}; {_network(plan)}"
    )


def _network(plan: TaskPlan) -> str:
    """What the network begins as, what of it trains and travels, and how it is computed and released."""
    begins = {
        "fresh": "begins at random weights",
        "release": f"begins at what it shares with the release {(plan.release or '')[:16]}..., which every party holds",
    }.get(plan.start, f"begins at the public weights {plan.start}")
    part = {
        "all": "all of its parameters train and travel",
        "biases_norms_head": "only biases, the affine parameters of normalisation and the last layer train and travel",
        "head": "only the last layer trains and travels",
    }[plan.trained]
    half = ", in bfloat16" if plan.precision == "bfloat16" else ""
    hard = (
        f", on patches that are changed against it by up to {100 * plan.adversarial:g} % of their range"
        if plan.adversarial
        else ""
    )
    average = f"; the moving average of the models, decay {plan.average:g}, is released" if plan.average else ""
    which = f"the network {plan.network}" if plan.network else "the network"
    return f"{which} {begins}, {part}{half}{hard}{average}{_craft(plan)}"


def _craft(plan: TaskPlan) -> str:
    """What training does beside steps, or nothing."""
    parts = {
        "weight decay {:g}": plan.weight_decay,
        "dropout of {:.0%} of the channels before the last layer": plan.dropout,
        "patches zoomed by up to {:.0%}": plan.zoom,
        "turned by up to {:g} degrees": plan.rotation,
        "with noise of up to {:g} added": plan.input_noise,
        "{:.0%} of them chosen for their foreground": plan.foreground,
    }
    said = ", ".join(text.format(value) for text, value in parts.items() if value is not None)
    return f"; {said}" if said else ""


def _rules(charter: Charter) -> tuple[str, ...]:
    answers = (
        () if charter.masking else (f"a round with fewer than min_sites = {charter.min_sites} answers ends the run",)
    )
    return (
        f"a hospital with fewer than {charter.min_patients} training patients for a task does not take part in it",
        f"a phase of a round waits {charter.deadline:g} s for answers",
        *answers,
    )


def _privacy(charter: Charter) -> tuple[str, ...]:
    plan = charter.privacy
    if plan.mode == "off":
        return ("mode off: no differential privacy; no noise is added to any update",)
    if plan.mode == "distributed":
        return _shared(charter)
    delta = "the lesser of 1e-5 and 1 / (10 N) with N patients" if plan.delta is None else f"{plan.delta:g}"
    steps = ", ".join(f"{task.name} {task.rounds * task.local_steps}" for task in charter.tasks)
    repeats = (
        "" if charter.masking is None else "; rounds that are repeated (two repeats each at most) are charged again"
    )
    return (
        "mode patient: the unit is the patient with all slices and studies at one hospital; one patient more or less "
        "changes what leaves by no more than epsilon tells (add or remove one patient)",
        f"every step draws each patient with chance {plan.sample_rate:g}, clips the patient's whole gradient to "
        f"{plan.clip:g} and adds noise of {plan.noise_multiplier:g} times that; delta is {delta}",
        f"steps in all: {steps}; every hospital computes the epsilon of its patients and charges it before it trains"
        f"{repeats}",
        "every hospital has weight 1, since a count of slices is not covered by the guarantee",
        "not covered by epsilon: scores on held-out patients, and how long a hospital takes",
    )


def _shared(charter: Charter) -> tuple[str, ...]:
    plan, noise, federation = charter.privacy, NoisePlan.of(charter), charter.federation
    delta = f"the lesser of 1e-5 and 1 / (10 N) with N = {plan.patients}" if plan.delta is None else f"{plan.delta:g}"
    steps = ", ".join(f"{task.name} {task.rounds}" for task in charter.tasks)
    against = (
        f"against the coordinator together with up to {federation.colluding} of the other hospitals"
        if federation.colluding
        else "against the coordinator, or one of the other hospitals, each on its own"
    )
    most = noise.spread(0, noise.members) / (noise.noise_multiplier * noise.clip)
    return (
        "mode distributed: the unit is the patient with all slices and studies at one hospital; one patient more or "
        f"less changes the sums by no more than epsilon tells (add or remove one patient), {against}",
        f"every round draws each patient with chance {plan.sample_rate:g} and clips the patient's whole gradient to "
        f"{plan.clip:g}; the noise that counts is {plan.noise_multiplier:g} times that, and delta is {delta}",
        f"noise: every hospital adds {noise.spread(0, 1) / noise.clip:.4g} times the clip, as {noise.honest} hospitals "
        f"must make up what counts: of the {federation.quorum} that every sum has, {federation.quorum - noise.honest} "
        f"may know and subtract their own; a sum over all {noise.members} has {most:.3g} times the noise that counts",
        f"every sum is divided by {plan.sample_rate:g} times the agreed number of patients, {plan.patients}, a public "
        "constant",
        f"steps in all: {steps}; every hospital charges them before it computes; rounds that are repeated (two repeats "
        "each at most) are charged again",
        "an upload alone has too little noise: whoever takes its masks off learns more of its patients than epsilon "
        "tells",
        "a patient with images at two hospitals moves a sum by up to twice the clip, which costs more than both",
        "a hospital that adds no noise counts as one that works with the coordinator",
        "not covered by epsilon: scores on held-out patients, and how long a hospital takes",
    )


def _shared_facts(charter: Charter) -> dict[str, Any]:
    noise = NoisePlan.of(charter)
    return {
        "honest": noise.honest,
        "share": noise.spread(0, 1),
        "noise_of_all": noise.spread(0, noise.members),
        "unit": noise.unit,
        "divisor": noise.divisor,
    }


def _numbers(charter: Charter, codec: Codec) -> tuple[str, ...]:
    upload = (
        f"numbers: a ring of {codec.bits} bits, {codec.words.itemsize} bytes of upload for each parameter of the "
        f"network and {HEADER_BYTES} besides"
    )
    if codec.integers:
        return (
            upload,
            f"sums of training are integers, multiples of {NoisePlan.of(charter).unit:.3g}, modulo 2^32; clip and "
            "w_max of [secure_aggregation] have no effect, since a summand with a share of the noise is not cut off",
        )
    return (
        upload,
        f"every element of an update is clipped to {codec.clip:g} either way; the greatest weight of a hospital is "
        f"{codec.w_max} (w_max)",
    )


def _masking(charter: Charter) -> tuple[str, ...]:
    federation = charter.federation
    members, quorum, threshold = len(federation.peers), federation.quorum, federation.threshold
    wanted = needed(charter)
    codec = Codec.of(federation)
    keys = "X25519 and ML-KEM-768" if federation.post_quantum else "X25519"
    later = (
        "a recording of a round stands against a later quantum computer"
        if federation.post_quantum
        else "not post-quantum: who records a round and has a quantum computer later can take the masks off"
    )
    return (
        f"{members} members; {threshold} must confirm and unmask a round (t = {threshold}), so "
        f"{max(0, members - wanted)} may drop out of it (delta = {members - threshold})",
        f"a round with fewer than {quorum} hospitals (the greater of t and min_included = {federation.min_included}) "
        "is refused by every hospital and has no result; its number is not used again",
        f"the coordinator needs {wanted} hospitals to the end of a round (the greater of these {quorum} and "
        f"min_sites = {charter.min_sites}); with fewer it repeats the round, twice at most, then the run ends",
        f"as many as c = {federation.colluding} of the hospitals may tell the coordinator all that they know, and "
        "learn no other one's update with it",
        *_numbers(charter, codec),
        f"keys: {keys}; {later}",
        *_apps(federation),
    )


def _apps(federation: Federation) -> tuple[str, ...]:
    if not federation.apps:
        return ("no app digest is named: any release that is installed at a hospital may run",)
    return tuple(
        f"only a hospital with this release takes part (app digest, bound into every signature): {one}"
        for one in federation.apps
    )


def _coordinator(charter: Charter) -> tuple[str, ...]:
    plan = charter.coordinator
    if plan is None:
        return ("none is named: no hospital connects to one, so this is for a simulation on one machine",)
    return (
        f"{plan.name}, at {plan.address}{_where(plan.country)}",
        f"hospitals connect to nobody else: the SHA-256 of its authority's certificate is {grouped(plan.authority)}",
        "it issues each hospital a certificate, and knows when and from where each connects",
    )


def _where(country: str | None) -> str:
    return f", in {country}" if country else ""


def _masking_facts(charter: Charter) -> dict[str, Any]:
    federation = charter.federation
    codec = Codec.of(federation)
    return {
        "members": len(federation.peers),
        "threshold": federation.threshold,
        "drops": max(0, len(federation.peers) - needed(charter)),
        "needed": needed(charter),
        "colluding": federation.colluding,
        "min_included": federation.min_included,
        "quorum": federation.quorum,
        "ring_bits": codec.bits,
        "bytes_per_parameter": codec.words.itemsize,
        "clip": codec.clip,
        "w_max": codec.w_max,
        "post_quantum": federation.post_quantum,
        "apps": list(federation.apps),
        "fingerprint": federation.fingerprint.hex(),
    }
