"""What ``fedward node check`` says of lawful bases, consents and the frozen split."""

from client.consent import Hold
from client.eligible import judged
from client.lineage import Lineage
from client.node import Node
from client.preflight import Answer, Verdict
from client.records import log_of, read_register
from shared.errors import PolicyError


def consents(node: Node) -> Answer:
    """Who takes part today, and why not the others.

    Raises:
        PolicyError: Nobody has a basis: none is set, and no consent is recorded.
        RecordError: The register is damaged, or not the one that the audit log knows.
    """
    register, _ = read_register(node, log_of(node))
    if register.default is None and not register.patients and not node.virtual:
        raise PolicyError(
            "no lawful basis is recorded, so no patient takes part",
            hint="fedward node basis set NODE 'GDPR 6(1)(e), 9(2)(j)' --act LAW --who NAME --why REASON, or import "
            "consents with 'fedward node consent import NODE FILE'",
        )
    basis = f"basis of the data set: {register.default.basis}" if register.default else "no basis of the data set"
    broken = sum(Hold.ERASING in one.holds for one in register.patients.values())
    if broken:
        return Verdict.WARN, f"{broken} erasures were broken off", "run 'fedward node subject report' or an ingest"
    if not (node.folder / "cohort" / "index.json").exists():
        return basis
    keys = [entry.key for entry in node.cohort.entries]
    out = [why for _, why in judged(keys, node, log=log_of(node)) if why]
    said = f"{basis}; {len(keys) - len(out)} of {len(keys)} patients take part"
    if not out:
        return said
    why = ", ".join(f"{out.count(one)} {one}" for one in sorted(set(out)))
    if len(out) == len(keys):
        raise PolicyError(f"{said}: {why}", hint="see 'fedward node basis show' and 'fedward node consent show'")
    if {one for one in out if "expired" in one or one in {"no basis", "consent for another purpose"}}:
        return Verdict.WARN, f"{said} ({why})", "they are left out; import newer consents, or leave it so"
    return f"{said} ({why})"


def trained_on_tests(node: Node) -> int:
    """How many patients that are held out were ever trained on, by the lineage."""
    return Lineage(node).mixed()
