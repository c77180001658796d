"""What a run came to, put into the words of its record: sites, files, logs, bytes, and what it cannot show."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from compliance.log import verify
from server.history import Traffic
from simulation.arms import Hospital, Prepared
from simulation.federation import Federated
from simulation.record import DeidRecord, KindRecord, LogRecord, SeenRecord, SiteRecord, WireRecord
from simulation.sites.specs import MrProtocol, SiteSpec
from simulation.witnessing import witness

OWN_LOG = Path("simulation") / "audit" / "log.jsonl"
"""The log of the simulation itself, below the folder of a run."""

IN_THE_CLEAR = (
    "Updates were not masked in this run: this coordinator saw each hospital's update, its weight and its scores."
)
LIMITS = (
    "All patients are synthetic and descend from one brain atlas and one family of torso shapes, and the noise model "
    "is the one trained on: scores are upper bounds for real images.",
    "The public models were trained on phantoms out of the same generators as these hospitals: they start nearer to "
    "them than to real patients.",
    "Masks hide one hospital's update, not what a sum tells; and with few hospitals a sum is close to each of them.",
    "The whole federation ran on one machine: no network, no outage and no clock of another party was in play.",
    "Differential privacy covers the training steps of the arm that says so; scores on held-out patients "
    "and the choice of settings are not covered by it.",
    "The hospitals cosigned each other's audit logs on one machine, where one person could have made all of it; the "
    "logs of the coordinator's runs and of the simulation are chained and cosigned by nobody.",
    "Pixels of these CT and MR series were not searched for burned-in text, since nothing in their headers asks for "
    "it, and heads were flagged, not defaced.",
)


def site(spec: SiteSpec, found: Prepared, *, member: bool) -> SiteRecord:
    """A hospital and its cohort, described without naming anybody."""
    protocol = spec.protocol
    if isinstance(protocol, MrProtocol):
        contrast = f"{protocol.sequence.name.replace('_', ' ').capitalize()}, TR {protocol.tr:g}, TE {protocol.te:g} ms"
        field, noise = f"{protocol.field:g} T", f"{protocol.noise:.0%} Rician"
    else:
        contrast = f"Abdomen, {protocol.phase.value}"
        field, noise = f"{protocol.kernel.value} kernel", f"{protocol.photons:.0f} photons a view"
    return SiteRecord(
        id=spec.id,
        modality=protocol.modality,
        contrast=contrast,
        field=field,
        noise=noise,
        train_patients=found.train_patients if member else 0,
        held_out_patients=found.held_out_patients,
        studies=found.studies,
        slices=found.slices,
        member=member,
    )


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def deid(prepared: Sequence[Prepared]) -> DeidRecord:
    """De-identification of all hospitals together."""
    counts = _added(one.deid for one in prepared)
    name, digest = prepared[0].profile
    return DeidRecord(
        files=counts.get("files", 0),
        released=counts.get("released", 0),
        quarantined=counts.get("quarantined", 0),
        refused=counts.get("refused", 0),
        profile=name,
        profile_sha256=digest,
        reasons=_added(one.reasons for one in prepared),
        rules=_added(one.rules for one in prepared),
    )


def logs(out: Path, hospitals: Sequence[Hospital]) -> Iterable[LogRecord]:
    """Every party's log, checked from its first line to its last; one that does not verify ends the run.

    The hospitals cosign each other's logs first, so that what is checked has been seen by others.
    """
    cosigned = witness({one.site: one.node for one in hospitals})
    paths = {one.site: one.node / "audit" / "log.jsonl" for one in hospitals}
    paths |= {path.parent.name: path / "log.jsonl" for path in sorted((out / "federation").glob("*/audit"))}
    paths["simulation"] = out / OWN_LOG
    for owner, path in paths.items():
        found = verify(path)
        yield LogRecord(owner, found.entries, True, found.head, cosigned.get(owner, 0))


def wire(federations: Mapping[tuple[str, str], Federated], seen: SeenRecord | None) -> WireRecord:
    """Content of the messages of all federated arms, and one update as the coordinator saw it."""
    runs = list(federations.values())
    total: dict[str, Traffic] = {}
    for kind, more in (item for one in runs for item in one.traffic.items()):
        total[kind] = total.get(kind, Traffic(0, 0, 0, 0)) + more
    return WireRecord(
        down=sum(one.bytes_down for one in runs),
        up=sum(one.bytes_up for one in runs),
        messages=sum(one.messages for one in runs),
        per_round={task: one.bytes_per_answer for (task, arm), one in federations.items() if arm == "federated"},
        masked=all(one.aggregation == "masked" for one in runs),
        per_parameter={
            task: one.bytes_per_answer / one.parameters
            for (task, arm), one in federations.items()
            if arm == "federated" and one.aggregation == "masked"
        },
        kinds=tuple(
            KindRecord(kind, one.questions, one.answers, one.bytes_down, one.bytes_up) for kind, one in total.items()
        ),
        seen=seen,
    )
