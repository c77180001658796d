"""``fedward simulate --audit-privacy``: the audit of :mod:`simulation.audit_privacy`, told at a terminal."""

from pathlib import Path

from shared.charter import Charter
from shared.console import emit_json, progress, say
from shared.errors import FedwardError, UsageError
from shared.files import canonical_json, output_errors, write_bytes
from simulation.audit_privacy import Look, PrivacyAudit, audit, require_privacy


def audit_charter(charter: Charter, out: Path, *, overwrite: bool, as_json: bool) -> None:
    """Audit the training code under the privacy settings of a charter's first task; write ``out/audit.json``.

    Raises:
        UsageError: The charter has no differential privacy, or the folder holds an audit or a run already.
        OutputError: The file cannot be written.
        FedwardError: The code loses more than it claims.
    """
    import torch  # seconds of imports that `fedward --help` should not cost

    from shared.imaging.tasks import get_task

    torch.set_num_threads(1)
    plan = charter.tasks[0]
    require_privacy(charter.privacy)
    if not overwrite and any((out / name).exists() for name in ("audit.json", "run.json")):
        raise UsageError(
            f"{out} holds an audit or a run already", hint="choose a new folder with --out, or give --overwrite"
        )
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with progress(quiet=as_json) as bar:
        line = bar.add_task("Audit: rounds with canaries", total=plan.rounds)
        found = audit(
            get_task(plan.name),
            plan,
            charter.privacy,
            seed=charter.seed,
            on_round=lambda done, rounds: bar.update(line, completed=done),
        )
    write_bytes(out / "audit.json", canonical_json(found.to_json()))
    if as_json:
        emit_json(found.to_json())
    else:
        _tell(found, shared=charter.privacy.mode == "distributed")
        say(f"{found.seconds:.0f} s; {out / 'audit.json'}")
    if found.violated:
        raise FedwardError(
            "the audit REFUTES the privacy that is claimed",
            hint="train no patient under privacy with this installation, and report it with audit.json",
        )


def _tell(found: PrivacyAudit, *, shared: bool) -> None:
    said = found.statement
    say(
        f"audited with the charter's settings for {found.task}: "
        f"each patient in a step with chance {said.sample_rate:g}, "
        f"noise {said.noise_multiplier:g} times the bound, {said.steps} steps"
    )
    say(f"{found.canaries_in} of {found.canaries} canaries took part, beside {found.others} patients")
    for look in found.looks:
        _tell_look(look, found)
    if shared:
        say("all of the noise was added at one place here: noise in shares under masks is not audited")
    if not found.violated:
        say("a lower bound below the claim is consistent with the claim; it is no proof of it")


def _tell_look(look: Look, found: PrivacyAudit) -> None:
    from client.budget_words import figure

    verdict = "ABOVE the claim: a fault" if look.violated else "consistent"
    say(
        f"after {look.steps} steps: claimed epsilon {figure(look.claim)} at delta {found.statement.delta:.0e}, "
        f"lower bound {look.lower:.2f} ({found.confidence:.0%} confidence; "
        f"{look.correct} of {look.guesses} guesses right): {verdict}"
    )
    if look.blind:
        say(
            f"  with {found.canaries} canaries no lower bound exceeds {look.ceiling:.1f}: "
            "a fault could not show against this claim"
        )
    say(f"  correct code is expected to give about {look.expected:.1f} with this noise, rate and number of steps")
