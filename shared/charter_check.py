"""What a charter asks for that its members may not have meant, found before anybody joins."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shared.bundle import digest
from shared.charter import Charter, PrivacyPlan, TaskPlan
from shared.noise_shares import NoisePlan
from shared.secagg.codec import Codec

SIGMAS: Final = 8  # beyond it an element of Gaussian noise lies with a chance of 1e-15
COARSE: Final = 1e-3  # a step of the fixed-point numbers above this share of the clip is worth a word
COARSE_GRADIENT: Final = 1e-4  # of the clip; an even gradient of 100,000 elements has elements of 3e-3
FEW_SLICES: Final = 10  # no hospital that takes part trains on fewer
HOLDING_OUT: Final = 3  # with fewer patients a cohort keeps none for evaluation


@dataclass(frozen=True)
class Caution:
    """One warning: a short name for programs and a text for people."""

    name: str
    text: str


@dataclass(frozen=True)
class UpdateBound:
    """How large one element of a hospital's update can become in a round of private local SGD.

    Attributes:
        signal: Bound of what the patients' gradients add up to.
        noise: Standard deviation of the noise in it.
    """

    signal: float
    noise: float

    @property
    def needed(self) -> float:
        """The clip above which the masks' fixed-point numbers cut nothing off: signal and 8 sigma."""
        return self.signal + SIGMAS * self.noise


def update_bound(plan: TaskPlan, privacy: PrivacyPlan, min_patients: int) -> UpdateBound | None:
    """The bound for the smallest hospital that may take part, or None where none holds beforehand.

    A step of SGD (no momentum, no decay) moves an element by lr (S + Z) / (q N): S is the sum of at most N gradients of
    norm C, so |S| <= N C, and Z has the standard deviation sigma C. After s steps that is at most lr s C / q and a
    standard deviation of lr sqrt(s) sigma C / (q N), largest for N = ``min_patients``, at a hospital that has declared
    as many patients as it has. It holds in every round, since the rate never rises above ``local_lr``; the proximal
    term only shrinks an update while ``local_lr`` times ``proximal`` is at most 2. Weight decay moves an element by its
    own size, and other optimisers divide by what they saw so far: their steps have no such bound.
    """
    if plan.local_optimizer != "SGD" or plan.weight_decay or plan.local_lr * plan.proximal > 2:
        return None
    rate, steps, clip, chance = plan.local_lr, plan.local_steps, privacy.clip, privacy.sample_rate
    noise = rate * math.sqrt(steps) * privacy.noise_multiplier * clip / (chance * min_patients)
    return UpdateBound(rate * steps * clip / chance, noise)


def needed(charter: Charter) -> int:
    """So many hospitals must stay in a masked round to its end, or the coordinator repeats it.

    Every hospital refuses a round below the quorum; the coordinator holds to ``min_sites`` as well.
    """
    return max(charter.min_sites, charter.federation.quorum)


def cautions(charter: Charter) -> tuple[Caution, ...]:
    """Everything in ``charter`` that deserves a warning, the gravest first."""
    return tuple(_cautions(charter))


def _cautions(charter: Charter) -> Iterator[Caution]:
    if charter.masking is None:
        yield Caution(
            "readable_updates",
            "there is no [secure_aggregation]: the coordinator reads the update of every hospital, so only virtual "
            "hospitals may take part",
        )
    if charter.privacy.mode == "off":
        yield Caution(
            "no_differential_privacy",
            "privacy is off: nothing bounds what the sums and the model tell about one patient",
        )
    released = [plan.name for plan in charter.tasks if plan.release is not None]
    if released and charter.privacy.mode != "off":
        yield Caution(
            "start_not_covered",
            f"{', '.join(released)} starts from a release: epsilon covers what is trained from there, and not what the "
            "release learnt; its card says under which privacy, and perhaps on the same patients",
        )
    if charter.min_patients < HOLDING_OUT:
        yield Caution(
            "nobody_held_out",
            f"min_patients = {charter.min_patients}: a hospital with fewer than {HOLDING_OUT} patients may take part, "
            f"has none held out, and answers no evaluation; take {HOLDING_OUT} or more",
        )
    if charter.masking is not None:
        yield from _rounds(charter)
        yield from _numbers(charter)
        yield from _apps(charter)


def _rounds(charter: Charter) -> Iterator[Caution]:
    federation = charter.federation
    members, quorum = len(federation.peers), federation.quorum
    if needed(charter) == members:
        if quorum < members:
            why = f", because min_sites = {charter.min_sites}; without that, {members - quorum} might drop out"
        else:
            why = "; with three, the two that are left would read each other's update" if members == 3 else ""
        yield Caution(
            "no_drop_out",
            f"all {members} hospitals must stay in a round to its end: one that drops out ends the round without a "
            f"result{why}",
        )
    if charter.min_sites < quorum:
        yield Caution(
            "min_sites_without_effect",
            f"min_sites = {charter.min_sites} has no effect: a round needs {quorum} hospitals, the greater of "
            "threshold and min_included",
        )
    if charter.min_sites > members:
        yield Caution(
            "min_sites_out_of_reach",
            f"min_sites = {charter.min_sites} is more than the {members} members: no run can go on",
        )
    if federation.colluding == 0:
        yield Caution(
            "no_collusion_tolerated",
            "colluding = 0: one hospital that works with the coordinator may be enough to learn another one's update",
        )


def _numbers(charter: Charter) -> Iterator[Caution]:
    federation = charter.federation
    if charter.privacy.mode == "distributed":
        yield from _shares(charter)
        return
    if charter.privacy.mode == "patient":
        for plan in charter.tasks:
            yield from _clip(plan, charter)
    codec = Codec.of(federation)
    least = math.ceil(codec.w_max / (codec.scale * COARSE))  # a hospital of weight w has steps of C w_max / (M w)
    if least <= min(FEW_SLICES, codec.w_max):
        return
    step = codec.clip * codec.w_max / codec.scale
    wider = "take 32 bits" if codec.bits == 16 else ""
    if codec.w_max == 1:
        text = f"updates are rounded to steps of {step:.3g}, above {COARSE:.1%} of the clip"
        yield Caution("coarse_numbers", f"{text}; {wider or 'take fewer members'}")
    else:
        yield Caution(
            "coarse_numbers",
            f"the update of a hospital with w training slices is rounded to steps of {step:.3g} / w: with fewer than "
            f"{least} slices that is above {COARSE:.1%} of the clip; lower w_max to the slices of the largest hospital"
            + (f", or {wider}" if wider else ""),
        )


def _shares(charter: Charter) -> Iterator[Caution]:
    noise = NoisePlan.of(charter)
    if not charter.federation.post_quantum:
        yield Caution(
            "shared_noise_not_post_quantum",
            "an upload has one hospital's share of the noise only, and who records it and has a quantum computer later "
            "reads it; take post_quantum = true",
        )
    if noise.unit > COARSE_GRADIENT * noise.clip:
        yield Caution(
            "coarse_numbers",
            f"gradients are cut to multiples of {noise.unit / noise.clip:.2g} of the clip, since a ring of 32 bits "
            f"must hold the sum over {charter.privacy.patients} patients: small elements are lost; take a smaller "
            "sample_rate",
        )


def _apps(charter: Charter) -> Iterator[Caution]:
    if charter.federation.apps and digest() not in charter.federation.apps:
        yield Caution(
            "app_not_listed",
            f"the release that is installed here, {digest()}, is not among apps: a hospital with it takes no part",
        )


def _clip(plan: TaskPlan, charter: Charter) -> Iterator[Caution]:
    clip = charter.federation.clip
    bound = update_bound(plan, charter.privacy, charter.min_patients)
    if bound is None:
        why = (
            f"{plan.local_optimizer} is not SGD"
            if plan.local_optimizer != "SGD"
            else "weight_decay moves it too"
            if plan.weight_decay
            else "local_lr times proximal is above 2"
        )
        yield Caution(
            "clip_unknown",
            f"{plan.name}: how large an update becomes cannot be bounded beforehand ({why}); whether "
            f"secure_aggregation.clip = {clip:g} cuts off noise shows only in a trial run",
        )
    elif bound.needed > clip:
        yield Caution(
            "clip_too_small",
            f"{plan.name}: secure_aggregation.clip = {clip:g} is below {bound.needed:.3g}, what an element of an "
            f"update can reach at a hospital with {charter.min_patients} patients (gradients {bound.signal:.3g}, "
            f"and {SIGMAS} sigma of the noise, sigma {bound.noise:.3g}): cutting it off keeps the privacy guarantee "
            f"and biases the average; take a clip of {_round_up(bound.needed):g}, a smaller local_lr or a larger "
            "min_patients",
        )


def _round_up(value: float) -> float:
    """``value`` rounded up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
