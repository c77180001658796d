"""Training and evaluation for a federation, on this hospital's patients."""

import hashlib
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from flwr.app import RecordDict
from torch import nn

from client import masks
from client.answers import asked_under, keep_answer, kept_answer
from client.charge import Charge, Receipt
from client.cohort import Cohort, Split
from client.eligible import eligible, moment
from client.lineage import EVALUATE, TRAIN, Lineage, Part
from client.manifest import current, index_digest
from client.paying import pay, require_no_budget
from client.policy import Decision, affordable, decide, policy_of
from client.records import read_register, unchanging
from client.scoring import bounded, score
from client.session import Session
from client.training.device import computing, device
from client.training.loop import TrainOutcome, price, train_round, usable
from client.training.shared_sum import shared_sum
from client.witnessing import check_shown, checkpoint_for, require_witnessed
from compliance.bundle_start import start_release
from compliance.log import Action, Outcome, Scalar
from compliance.trail import Occasion
from shared.charter import Charter, PrivacyPlan, TaskPlan
from shared.errors import PolicyError, ProtocolError
from shared.header import Header
from shared.imaging.images import PatientImages
from shared.imaging.start import prepared
from shared.imaging.tasks import Task, get_task
from shared.noise_shares import NoisePlan
from shared.records import record_bytes
from shared.vector import Layout, Vector
from shared.weights import load_weights, travelling
from shared.wire import (
    TRAIN_SUMS,
    Body,
    EvaluateReply,
    EvaluateRequest,
    MaskedBody,
    PlainBody,
    PlainSums,
    TrainReply,
    TrainRequest,
)

RequestT = TypeVar("RequestT", TrainRequest, EvaluateRequest)


class _LeftError(Exception):
    """Somebody said no after it was asked who takes part."""


@dataclass(frozen=True)
class _Bench:
    """What one task needs, kept between requests: the network to load weights into, and the patients.

    ``begins`` is what decides the network: how it starts, what of it trains, the seed and the device; ``origin`` the
    run and the task of the release that it starts from. ``cohort`` is the state of the cohort's index and of what is
    recorded of its patients, and the day: another one has other patients.
    """

    task: Task
    begins: tuple[object, ...]
    origin: str
    cohort: tuple[int, ...]
    network: nn.Module
    layout: Layout
    train: tuple[PatientImages, ...]
    held_out: tuple[PatientImages, ...]


@dataclass
class Rounds:
    """Answers requests to train and to evaluate for one open node."""

    session: Session
    _benches: dict[str, _Bench] = field(default_factory=dict)

    def train(self, content: RecordDict) -> RecordDict:
        """Answer a request for a round of training with a :class:`TrainReply` or a :class:`~shared.wire.Refusal`."""
        return self.session.answer(content, TrainRequest.from_record, lambda asked: self._once(asked, self._train))

    def evaluate(self, content: RecordDict) -> RecordDict:
        """Answer a request for an evaluation with an :class:`EvaluateReply` or a :class:`~shared.wire.Refusal`."""
        return self.session.answer(
            content, EvaluateRequest.from_record, lambda asked: self._once(asked, self._evaluate)
        )

    def _once(self, request: RequestT, act: Callable[[RequestT], RecordDict]) -> RecordDict:
        """What ``act`` answers; to the very request that was answered before the answer of then, if it is allowed."""
        session = self.session
        key = asked_under(session, request)
        before = kept_answer(session, request, key)
        if before is None:
            reply = self._settled(request, act)
            keep_answer(session, request, key, reply)
            return reply
        self._allow_again(request.header, training=isinstance(request, TrainRequest))
        facts: dict[str, Scalar] = {"bytes": record_bytes(before), "again": True}
        session.log.append(session.entry(Action.MESSAGE_OUT, Outcome.STARTED, request.header, facts))
        return before

    def _settled(self, request: RequestT, act: Callable[[RequestT], RecordDict]) -> RecordDict:
        """What ``act`` answers; begun anew where somebody says no while the round is made ready."""
        while True:
            try:
                return act(request)
            except _LeftError:
                continue

    def _train(self, request: TrainRequest) -> RecordDict:
        session, header = self.session, request.header
        require_witnessed(session.node)
        privacy = session.charter.privacy
        bench = self._prepare(request, training=True)
        names = TRAIN_SUMS if privacy.mode == "off" and session.charter.scores_leave else ()
        masking = masks.expected(session, request, size=bench.layout.size, metrics=names)
        _check_masks(privacy, masking)
        plan = session.charter.task(header.task)
        facts: dict[str, Scalar] = {
            "patients": len(bench.train),
            "steps": plan.local_steps,
            "privacy": privacy.mode,
            "records": read_register(session.node)[1],
        }
        part = self._note(header, TRAIN, bench, bench.train, rate=privacy.sample_rate if privacy.mode != "off" else 1.0)
        facts |= Lineage(session.node).head()
        with session.act(Action.TRAIN, header, facts), computing(policy_of(session.node).device):
            receipt = self._pay(header, plan, bench)
            if privacy.mode == "distributed" and masking is not None:
                outcome, body, done = self._shared(masking, plan, bench, receipt)
            else:
                outcome = train_round(
                    bench.task,
                    bench.network,
                    bench.train,
                    plan,
                    round_number=header.round,
                    privacy=privacy,
                    seed=self._seed(header) if receipt is None else None,
                    receipt=receipt,
                )
                update = bench.layout.flatten(travelling(bench.network)).vector - request.model.vector
                sums = () if outcome.loss_sum is None or not names else (outcome.loss_sum, float(outcome.samples))
                metrics = bounded(dict(zip(names, sums, strict=True)))
                weight = float(sum(patient.slices for patient in bench.train)) if receipt is None else 1.0
                body, done = _body(masking, update, weight, metrics)
            if privacy.mode != "off":
                Lineage(session.node).drawn(part, outcome.drawn)
            record = checkpoint_for(session, Occasion.ROUND_START)
            reply = TrainReply(header, session.node.site, body, record).to_record()
        facts = {
            "dataset": part.dataset,
            "manifest": part.manifest,
            "steps": outcome.steps,
            "noise": outcome.noise,
            "unusable": outcome.unusable,
            **done,
        }
        if outcome.micro_batch:
            facts["micro_batch"] = outcome.micro_batch
        return session.sent(Action.TRAIN, header, reply, facts)

    def _evaluate(self, request: EvaluateRequest) -> RecordDict:
        session, header = self.session, request.header
        if not session.charter.scores_leave:
            raise PolicyError("the pinned charter has neither masks nor the consent that scores leave in the clear")
        bench = self._prepare(request, training=False)
        masking = masks.expected(session, request, size=0, metrics=bench.task.sums)
        facts: dict[str, Scalar] = {"patients": len(bench.held_out), "records": read_register(session.node)[1]}
        self._note(header, EVALUATE, bench, bench.held_out, rate=1.0)
        facts |= Lineage(session.node).head()
        with session.act(Action.EVALUATE, header, facts):
            sums = score(bench.task, bench.network, bench.held_out)
            body: PlainSums | MaskedBody = PlainSums(sums)
            if masking is not None:
                body, _ = masking.mask(masks.NO_UPDATE, 1.0, sums)
            record = checkpoint_for(session, Occasion.ROUND_START)
            reply = EvaluateReply(header, session.node.site, body, record).to_record()
        return session.sent(Action.EVALUATE, header, reply, {"masked": masking is not None})

    def _prepare(self, request: TrainRequest | EvaluateRequest, *, training: bool) -> _Bench:
        """Decide, then load the request's model.

        Raises:
            PolicyError: The pinned charter or this hospital's terms forbid it.
            ProtocolError: The model is not what the header says, or not one for this network.
        """
        header = request.header
        check_shown(self.session.node, request.record)
        # First without looking at any image, as if there were patients enough; then with those that there are.
        self._decide(header, None, training=training)
        bench = self._bench(header.task)
        self._decide(header, len(bench.train), training=training)
        if not training:
            _require_held_out(bench.held_out)
        if request.layout != bench.layout.sha256:
            raise ProtocolError("the model's layout is not that of this network", hint="install the same release")
        state = bench.layout.restore(request.model)
        if bench.layout.digest(request.model) != header.model:
            raise ProtocolError("the model is not the one that the header names", hint="send the round again")
        load_weights(bench.network, state)
        return bench

    def _allow_again(self, header: Header, *, training: bool) -> None:
        """Decide on an answer that was made before: by the index, since its images may have gone meanwhile.

        Raises:
            PolicyError: The pinned charter or this hospital's terms forbid it now.
            DataError: There is no cohort any more.
        """
        self._decide(header, None, training=training)
        cohort = self.session.node.cohort
        self._decide(header, len(self._listed(cohort, Split.TRAIN)), training=training)
        if not training:
            _require_held_out(self._listed(cohort, Split.HELD_OUT))

    def _decide(self, header: Header, patients: int | None, *, training: bool) -> None:
        node, charter = self.session.node, self.session.charter
        policy = policy_of(node)
        decision = decide(header, charter, policy, purpose=node.purpose, training=training, patients=patients)
        if decision.allowed and training and patients is None:
            decision = affordable(node, charter, policy)
        if decision.allowed and header.run in read_register(node, self.session.log)[0].stopped:
            decision = Decision(False, "this hospital takes no further part in this run")
        if not decision.allowed:
            raise PolicyError(decision.reason)

    def _bench(self, name: str) -> _Bench:
        node, charter, old = self.session.node, self.session.charter, self._benches.get(name)
        plan, where = charter.task(name), device(policy_of(node).device, virtual=node.virtual)
        begins = (plan.network, plan.start, plan.release, plan.trained, charter.seed, where)
        cohort = (*_state_of(node.folder / "cohort"), *moment(node))
        if old is not None and (old.begins, old.cohort) == (begins, cohort):
            return old
        task = get_task(name)
        if old is not None and old.begins == begins:
            network, origin = old.network, old.origin
        else:  # the hospital may have pinned another charter
            release = start_release(plan, node.folder)
            network = prepared(task, plan, charter.seed, release=release.weights if release else None).to(where)
            origin = f"{release.run}/{release.task}" if release else ""
        train, held_out = (
            (old.train, old.held_out) if old is not None and old.cohort == cohort else self._patients(task)
        )
        made = _Bench(task, begins, origin, cohort, network, Layout.of(travelling(network)), train, held_out)
        self._benches[name] = made
        return made

    def _patients(self, task: Task) -> tuple[tuple[PatientImages, ...], tuple[PatientImages, ...]]:
        """Those that may take part and that the task can use, to train on and held out."""
        cohort = self.session.node.cohort
        train, held_out = (
            tuple(usable(task, [cohort.load(key) for key in self._listed(cohort, split)]))
            for split in (Split.TRAIN, Split.HELD_OUT)
        )
        return train, held_out

    def _listed(self, cohort: Cohort, split: Split) -> tuple[str, ...]:
        """Those of one side of the split that may take part today, by the index of the cohort and the register."""
        session = self.session
        return eligible(cohort.patients(split), session.node, purpose=session.charter.purpose, log=session.log)

    def _note(
        self, header: Header, kind: str, bench: _Bench, patients: Sequence[PatientImages], *, rate: float
    ) -> Part:
        """Have the lineage know of a round before the log does: so whatever the log names was there.

        Raises:
            _LeftError: One of the patients may not take part any more.
        """
        node, charter = self.session.node, self.session.charter
        index, keys = index_digest(node), tuple(patient.key for patient in patients)
        with unchanging(node):  # an erasure comes before this, and is seen, or after it, and sees this round
            if eligible(keys, node, purpose=charter.purpose, log=self.session.log) != keys:
                raise _LeftError
            return Lineage(node).begin(
                header,
                kind,
                keys,
                charter=charter,
                rate=rate,
                steps=charter.task(header.task).local_steps if kind == TRAIN else 0,
                dataset=index,
                manifest=current(node, index, self.session.log),
                origin=bench.origin,
                log=self.session.log,
            )

    def _shared(
        self, masking: masks.Masking, plan: TaskPlan, bench: _Bench, receipt: Receipt | None
    ) -> tuple[TrainOutcome, Body, dict[str, Scalar]]:
        """A step under shared noise; what it makes is for the masks alone."""
        charter = self.session.charter
        made = shared_sum(
            bench.task,
            bench.network,
            bench.train,
            plan,
            privacy=charter.privacy,
            noise=NoisePlan.of(charter),
            layout=bench.layout,
            receipt=receipt,
        )
        body, _ = masking.mask(made.words, 1.0, {})
        return made.outcome, body, {"masked": True}

    def _seed(self, header: Header) -> int | None:
        """None takes the operating system's randomness: an update that can be had twice can be had by a difference."""
        session = self.session
        return seed_of(session.charter, session.node.site, header.task) if session.node.virtual else None

    def _pay(self, header: Header, plan: TaskPlan, bench: _Bench) -> Receipt | None:
        """Charge the round before it trains; None where the pinned charter asks for no differential privacy."""
        session = self.session
        privacy = session.charter.privacy
        if privacy.mode == "off":
            require_no_budget(session)
            return None

        def charge(constant: int | None) -> Charge:
            return price(
                bench.task,
                bench.train,
                plan,
                privacy,
                round_number=header.round,
                constant=constant,
                run=header.run,
                federation=header.federation,
            )

        return pay(session, header, charge)


def _check_masks(privacy: PrivacyPlan, masking: masks.Masking | None) -> None:
    """Under shared noise see, before it is paid for, that there are masks and that they neither scale nor clip.

    Raises:
        PolicyError: There are none, or they do.
    """
    if privacy.mode == "distributed" and (masking is None or not masking.member.federation.integers):
        raise PolicyError("a sum with one hospital's share of the noise leaves this hospital masked or not at all")


def _require_held_out(patients: Sized) -> None:
    if not patients:
        raise PolicyError("no patient is held out here, so there is nobody to evaluate on")


def seed_of(charter: Charter, site: str, task: str) -> int:
    """Seed of a virtual hospital's training without privacy: the charter's, made this site's and this task's own."""
    text = f"{charter.seed}|{site}|{task}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


def _body(
    masking: masks.Masking | None, update: Vector, weight: float, metrics: dict[str, float]
) -> tuple[Body, dict[str, Scalar]]:
    """The answer's body, and what the record says of it."""
    if not np.isfinite(update).all():
        update = np.zeros_like(update)  # to refuse would tell whose images made it burst
    if masking is None:
        return PlainBody(update, weight, metrics), {"masked": False}
    body, clipped = masking.mask(update, weight, metrics)
    return body, {"masked": True, "clipped": clipped, "weight_capped": weight > masking.member.federation.w_max}


def _state_of(folder: Path) -> tuple[int, ...]:
    """What changes whenever the index of the cohort in ``folder`` is written anew; empty where there is none."""
    try:
        found = (folder / "index.json").stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
