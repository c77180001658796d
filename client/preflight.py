"""Whether a hospital is ready to take part: one question after another, each with what to do where the answer is no.

A check is a function of :class:`Look` under :func:`check`. It returns what it found, or raises one of our own errors,
whose message and hint then are what was found. Nothing is changed by it, and nothing about patients leaves.
"""

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from client.join import check_member
from client.node import HELD, KEYS, Node
from client.policy import HospitalPolicy, policy_of, require_allowed
from client.policy_file import FILE as POLICY
from compliance.log import verify
from shared.bundle import digest, require_listed
from shared.charter import Charter
from shared.console import plural
from shared.errors import DataError, FedwardError, OutputError, PolicyError, ProtocolError
from shared.link_keys import read_key

MIB: Final = 2**20
SPARE: Final = 64 * MIB
"""Bytes that logs and ledgers need in any case."""
COPIES: Final = 8
"""Of the model, that a round has on disk and in memory at most: as it came, its objects, the answer, its masks."""


class Verdict(StrEnum):
    """How a check ended; a warning keeps nobody from taking part."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: Its name.
        verdict: How it ended.
        what: What was found, in one line.
        mend: What to do about it; empty where nothing is wrong.
        exit_code: Of a failure, as ``docs/exit-codes.md`` has them; else 0.
    """

    check: str
    verdict: Verdict
    what: str
    mend: str = ""
    exit_code: int = 0


@dataclass
class Look:
    """What checks look at; what is costly is found out once.

    Attributes:
        node: The hospital's node.
        timeout: Seconds that the coordinator has for an answer.
        ahead: Seconds that this machine's clock is ahead of the coordinator's; None where nobody said. Left here by the
            check of the connection for that of the clock.
    """

    node: Node
    timeout: float = 10.0
    ahead: float | None = field(default=None, init=False)

    def seen(self, ahead: float | None) -> None:
        """Take note of the coordinator's clock."""
        self.ahead = ahead

    @functools.cached_property
    def charter(self) -> Charter:
        """The pinned charter."""
        return self.node.charter

    @functools.cached_property
    def policy(self) -> HospitalPolicy:
        """What the hospital allows."""
        return policy_of(self.node)

    @functools.cached_property
    def model_bytes(self) -> int:
        """Bytes of the largest model of the pinned charter."""
        from shared.imaging.start import shaped  # noqa: PLC0415  # torch: seconds
        from shared.imaging.tasks import get_task  # noqa: PLC0415

        charter = self.charter
        networks = (shaped(get_task(plan.name), plan, charter.seed) for plan in charter.tasks)
        return max(4 * sum(parameter.numel() for parameter in network.parameters()) for network in networks)


Answer = str | tuple[Verdict, str, str]
"""What is well, in words; or how it ended, what was found, and how to mend it."""


@dataclass(frozen=True)
class Check:
    """One question.

    Attributes:
        name: What it is called.
        ask: Answers it.
        needs: Checks without whose success it cannot be asked.
        online: Whether it connects to the coordinator.
    """

    name: str
    ask: Callable[[Look], Answer]
    needs: tuple[str, ...]
    online: bool


CHECKS: Final[dict[str, Check]] = {}
"""All checks by name, in the order in which they are asked."""


def check(
    name: str, *, needs: tuple[str, ...] = (), online: bool = False
) -> Callable[[Callable[[Look], Answer]], Callable[[Look], Answer]]:
    """Register a check (a function decorator)."""

    def register(ask: Callable[[Look], Answer]) -> Callable[[Look], Answer]:
        CHECKS[name] = Check(name, ask, needs, online)
        return ask

    return register


def preflight(node: Node, *, offline: bool = False, timeout: float = 10.0) -> Iterator[Finding]:
    """Ask everything, and yield each finding as it is made.

    Args:
        node: The hospital's node.
        offline: Leave out what connects to the coordinator.
        timeout: Seconds that the coordinator has for an answer.
    """
    from client import preflight_link, preflight_record  # noqa: F401, PLC0415  # register checks, which need this module

    look, failed = Look(node, timeout), dict[str, str]()  # and what was in its way, or it itself
    said = dict[str, str]()  # what was found wrong, and the check that said it first: such as a policy that many read
    for one in CHECKS.values():
        if offline and one.online:
            continue
        missing = next((failed[name] for name in one.needs if name in failed), None)
        if missing is not None:
            failed[one.name] = missing
            yield _waiting(one, missing)
            continue
        finding = _asked(one, look)
        if finding.verdict is Verdict.FAIL:
            failed[one.name] = said.setdefault(finding.what, one.name)
        yield finding if failed.get(one.name, one.name) == one.name else _waiting(one, failed[one.name])


def _waiting(one: Check, missing: str) -> Finding:
    return Finding(one.name, Verdict.WARN, "not looked at", f"mend '{missing}' first")


def exit_code(findings: Iterable[Finding]) -> int:
    """6 where policy or a permission forbids something, 8 where the coordinator is not reached, else the greatest."""
    codes = {finding.exit_code for finding in findings}
    for first in (PolicyError.exit_code, ProtocolError.exit_code):
        if first in codes:
            return first
    return max(codes, default=0)


def _asked(one: Check, look: Look) -> Finding:
    try:
        answer = one.ask(look)
    except FedwardError as error:
        return Finding(one.name, Verdict.FAIL, error.message, error.hint, error.exit_code)
    return Finding(one.name, Verdict.OK, answer) if isinstance(answer, str) else Finding(one.name, *answer)


# --- the hospital's own -----------------------------------------------------------------------------------------------


@check("keys")
def _keys(look: Look) -> Answer:
    node = look.node
    for name in KEYS:
        node.key(name)
    if node.virtual:
        return Verdict.WARN, "a virtual hospital: anybody can compute its keys", "use it for simulations only"
    read_key(node.link_key)
    _ = node.identity
    return f"{len(KEYS) + 1} keys, and nobody else may read them"


@check("permissions")
def _permissions(look: Look) -> Answer:
    folder = look.node.folder
    private = [
        folder,
        *(folder / name for name in ("keys", "link", "masks", "rights", HELD) if (folder / name).exists()),
    ]
    for path in private:
        if path.stat().st_mode & 0o022:
            raise PolicyError(f"others may write in {path}", hint=f"run: chmod 700 {path}")
    for path in private:
        if path.stat().st_mode & 0o077:
            return Verdict.WARN, f"others may look into {path}", f"run: chmod 700 {path}"
    return f"{folder} is for its owner alone"


@check("record")
def _record(look: Look) -> Answer:
    path = look.node.folder / "audit" / "log.jsonl"
    if not path.exists():
        return "no audit log yet; it begins with the first act"
    found = verify(path)
    return f"the audit log verifies: {found.entries} entries, head {found.head[:16]}..."


# --- the charter ------------------------------------------------------------------------------------------------------


@check("charter", needs=("keys",))
def _charter(look: Look) -> Answer:
    node, charter = look.node, look.charter
    if charter.purpose != node.purpose:
        raise PolicyError(
            f"the charter's purpose '{charter.purpose}' is not that of {node.site}, '{node.purpose}'",
            hint="pin the charter that was agreed on for this purpose",
        )
    check_member(node, charter)
    return f"{charter.id}, SHA-256 {charter.sha256[:32]}..., {len(charter.members)} members"


@check("release", needs=("charter",))
def _release(look: Look) -> Answer:
    require_listed(look.charter)
    masking = look.charter.masking
    agreed = "listed in the charter" if masking and masking.apps else "the charter lists none, so any release will do"
    return f"{digest()[:16]}..., {agreed}"


@check("start", needs=("charter",))
def _start(look: Look) -> Answer:
    from compliance.bundle_start import start_weights  # noqa: PLC0415  # safetensors and the whole check of a release

    plans = [plan for plan in look.charter.tasks if plan.release is not None]
    for plan in plans:
        start_weights(plan, look.node.folder)
    if not plans:
        return "no task starts from a release"
    return f"the releases that {', '.join(plan.name for plan in plans)} start from are here, and hold"


@check("policy", needs=("charter",))
def _policy(look: Look) -> Answer:
    require_allowed(look.node, look.charter)
    there = (look.node.folder / POLICY).exists()
    return f"{POLICY} allows this charter" if there else f"no {POLICY}: masks and privacy are asked for, and are there"


@check("budget", needs=("charter",))
def _budget(look: Look) -> Answer:
    from client.budget import forecast, standing  # noqa: PLC0415  # scipy: half a second
    from client.budget_words import figure  # noqa: PLC0415
    from client.preflight_cohort import far_from_cohort  # noqa: PLC0415

    if look.node.virtual:
        return "a virtual hospital has none"
    now = standing(look.node)
    if look.charter.privacy.mode == "off":
        if now.budget is None:
            return "none is set, and the charter asks for no differential privacy"
        raise PolicyError(
            "this hospital has a privacy budget, and the charter asks for training without differential privacy",
            hint="no epsilon bounds what such a model tells of a patient; ask for a charter with privacy",
        )
    if now.budget is None:
        raise PolicyError(
            "this hospital has set no privacy budget",
            hint="set one first: fedward node budget set NODE --epsilon E --patients N --who NAME --why REASON",
        )
    found = forecast(now, look.charter)
    assert found is not None  # noqa: S101  # the charter asks for privacy
    total = f"epsilon {figure(found.epsilon)} of {now.budget.epsilon:g} after the whole charter"
    if found.covered:
        return far_from_cohort(look.node, now.budget.patients) or total
    return (
        Verdict.WARN,
        f"{total}: covers {found.fits} of {found.rounds} rounds, then this hospital refuses",
        "see 'fedward node budget plan' for the noise with which it fits; what was paid for already counts twice here",
    )


# --- patients ---------------------------------------------------------------------------------------------------------


@check("consent", needs=("charter",))
def _consent(look: Look) -> Answer:
    from client.preflight_rights import consents  # noqa: PLC0415

    return consents(look.node)


@check("cohort", needs=("charter", "consent"))
def _cohort(look: Look) -> Answer:
    from client.cohort import Split  # noqa: PLC0415  # the DICOM libraries: seconds
    from client.eligible import eligible  # noqa: PLC0415
    from client.preflight_cohort import missing_images, usable_patients  # noqa: PLC0415
    from client.preflight_rights import trained_on_tests  # noqa: PLC0415

    charter, cohort = look.charter, look.node.cohort
    if mixed := trained_on_tests(look.node):
        raise DataError(f"{mixed} test patients were trained on", hint="put the index of the cohort back from a copy")
    least = max(charter.min_patients, look.policy.min_patients)
    if lost := missing_images(cohort):
        raise DataError(f"{lost} cached studies are gone from {cohort.folder}", hint="run the last ingest again")
    train = {plan.name: usable_patients(look.node, cohort, Split.TRAIN, plan.name) for plan in charter.tasks}
    counts = ", ".join(f"{name} {count}" for name, count in train.items())
    few = [name for name, count in train.items() if count < least]
    remedy = "take in more with 'fedward node ingest'"
    everybody = cohort.patients(Split.TRAIN)
    if out := len(everybody) - len(eligible(everybody, look.node)):
        remedy = f"{plural(out, 'patient')} in training may not take part (see consent); else {remedy}"
    if len(few) == len(train):
        raise DataError(
            f"too few patients in training for any task ({counts}; {least} are needed)",
            hint=remedy,
        )
    if few:
        return (
            Verdict.WARN,
            f"too few patients in training for {', '.join(few)} ({counts}; {least} are needed)",
            f"this hospital refuses those tasks; {remedy}",
        )
    if not cohort.patients(Split.HELD_OUT):
        return Verdict.WARN, f"nobody is held out ({counts} in training)", "evaluations are refused; take in more"
    return f"patients in training: {counts}; {len(cohort.patients(Split.HELD_OUT))} held out"


# --- the machine ------------------------------------------------------------------------------------------------------


@check("device")
def _device(look: Look) -> Answer:
    import torch  # noqa: PLC0415  # seconds

    from client.training.device import DeviceError, describe, device  # noqa: PLC0415

    plan, virtual = look.policy.device, look.node.virtual
    chosen, said = device(plan, virtual=virtual), describe(plan, virtual=virtual)
    try:
        torch.ones(8, device=chosen).sum().item()
        free = torch.cuda.mem_get_info(chosen)[0] if chosen.type == "cuda" else None
    except RuntimeError as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DeviceError(f"{said}: {why}", hint="look with nvidia-smi, or say use = 'cpu' in policy.toml") from error
    if free is not None and free < 2**30:
        return Verdict.WARN, f"{said}: {free // MIB} MiB free", "end what else uses it; training goes on more slowly"
    return said


@check("disk", needs=("charter",))
def _disk(look: Look) -> Answer:
    folder, temporary = look.node.folder, Path(tempfile.gettempdir())
    least = SPARE + COPIES * look.model_bytes
    said = []
    for path in (folder, temporary):
        free = shutil.disk_usage(path).free
        if free < least:
            raise OutputError(
                f"{free // MIB} MiB are free on the disk of {path}, and a round needs {least // MIB}",
                hint="free some space" + (", or set TMPDIR to another disk" if path == temporary else ""),
            )
        said.append(f"{free // MIB} MiB free for {path}")
    images = sum(path.stat().st_size for path in (folder / "cohort").rglob("*") if path.is_file())
    if shutil.disk_usage(folder).free < least + images // 10:
        return Verdict.WARN, ", ".join(said), "the next ingest may fill it: free some space"
    return ", ".join(said)
