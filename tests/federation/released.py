"""A federation with a run that ended well, as its folders have it, and a release of its model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.charge import Budget, Charge
from client.ledger import Ledger
from client.node import Node
from client.statement import write_statement
from compliance.log import Action, AuditLog, Entry
from compliance.log import Outcome as Mark
from compliance.place import Place, establish
from server.authority import plan_of
from server.coordinator import Coordinator
from server.history import HISTORY, History, PhaseRecord, RoundRecord
from server.release import ModelCard, write_model
from server.release_bundle import Order, Released, release
from server.runs import Outcome, RunFolder
from shared.charter import Charter
from shared.charter_plans import CharterMember, MaskingPlan
from shared.files import write_json
from shared.imaging.start import prepared
from shared.imaging.tasks import get_task
from shared.statement import Statement
from shared.vector import Layout
from shared.weights import travelling, weights_of
from tests.federation import toy
from tests.federation.links import Desk

RUN = "run-1"
SITES = ("H1", "H2", "H3")
MANIFEST = "d" * 64
PRIVACY = {"mode": "patient", "noise_multiplier": 2.0, "sample_rate": 0.25, "scores": "masked"}


@dataclass(frozen=True)
class Ended:
    """A coordinator and its hospitals after a run."""

    root: Path
    coordinator: Coordinator
    charter: Charter

    @classmethod
    def make(cls, root: Path, *, privacy: Mapping[str, Any] = PRIVACY, patients: int = 24) -> "Ended":
        coordinator = Desk.make(root).coordinator
        nodes = [Node.create(root / site, site=site, purpose=toy.PURPOSE) for site in SITES]
        members = tuple(CharterMember(one.site, one.identity.public_key().public_bytes_raw().hex()) for one in nodes)
        rules = toy.charter(
            members=members,
            masking=MaskingPlan(threshold=3),
            coordinator=plan_of(coordinator),
            min_sites=3,
            privacy=dict(privacy),
        )
        made = cls(root, coordinator, rules)
        for node in nodes:
            made._trained(node, patients)
        made.ran(RUN)
        return made

    def node(self, site: str) -> Node:
        return Node.open(self.root / site)

    def _trained(self, node: Node, patients: int) -> None:
        """What a hospital's log and ledger have of the run."""
        rules, plan = self.charter, self.charter.tasks[0]
        node.pin(rules)
        private = rules.privacy.mode != "off"
        with node.open_log() as log:
            log.append(Entry(Action.CHARTER_PIN, Mark.OK, detail={"charter": rules.sha256}))
            for number in range(1, plan.rounds + 1):
                facts = {"task": plan.name, "patients": patients, "privacy": rules.privacy.mode}
                log.append(Entry(Action.TRAIN, Mark.STARTED, run=RUN, round=number, detail=facts))
                log.append(Entry(Action.TRAIN, Mark.OK, run=RUN, round=number, detail={"task": plan.name}))
        if not private:
            return
        with Ledger(node.ledger(), data_set=node.site) as ledger:
            ledger.set_budget(Budget(8.0, 1e-5, 24), who="A. Lovelace, DPO", why="tests")
            for number in range(1, plan.rounds + 1):
                ledger.reserve(Charge(RUN, rules.id, plan.name, number, "patient", 2.0, 0.25, plan.local_steps, 24))

    def ran(self, name: str) -> RunFolder:
        """The folder of a run that ended well."""
        rules, plan = self.charter, self.charter.tasks[0]
        run = RunFolder.create(self.coordinator, rules, rules.to_toml().encode(), name=name)
        network = prepared(get_task(plan.name), plan, rules.seed)
        state, layout = weights_of(network), Layout.of(travelling(network))
        digest = layout.digest(layout.flatten(travelling(network)))
        score = PhaseRecord(1.0, SITES, SITES, (), {}, {}, {"slices": 4.0, "mse": 0.5, "psnr": 80.0, "ssim": 2.0}, {})
        rounds = (
            RoundRecord(0, None, score, 0.0, 0.0, "0" * 64),
            *(
                RoundRecord(number, score, score, 3.0, 0.1, digest if number == plan.rounds else "1" * 64)
                for number in range(1, plan.rounds + 1)
            ),
        )
        history = History(rules.id, rules.sha256, name, plan.name, layout.size, "SGD", "masked", rounds)
        write_json(run.path / plan.name / HISTORY, history.to_json())
        card = ModelCard(
            *(rules.id, rules.sha256, name, plan.name, plan.rounds, SITES, rules.privacy.mode, layout.size, digest),
            start=plan.start,
            trained=plan.trained,
        )
        with AuditLog(self.coordinator.log_path, site="coordinator", subject_key=b"") as log:
            write_model(run.path / plan.name, state, card, log=log)
            log.append(Entry(Action.RUN_END, Mark.OK, run=name, detail={"task": plan.name, "charter": rules.sha256}))
        run.end(Outcome.now("ok"))
        return run

    def witnessed(self, *sites: str) -> None:
        """Have hospitals cosign the newest checkpoint of the coordinator's log, and of each other's."""
        places = {site: Place.open(self.root / site) for site in SITES}
        signers = {site: establish(place) for site, place in places.items()}
        hub = Place.open(self.coordinator.folder)
        establish(hub)
        for own, place in [("hub", hub), *places.items()]:
            trail = place.trail
            signed = trail.checkpoint()
            for site in sites:
                if site != own:
                    line = signers[site].cosign(signed.note.text, datetime.now(UTC))
                    trail.add_cosignature(signed.size, line, signers[site].witness_key)

    def state(self, site: str, *, name: str = "", quality: Path | None = None, within: Path | None = None) -> Path:
        """A hospital's statement, written to a file."""
        out = (within or self.root) / f"{name or site}.statement.json"
        write_statement(self.node(site), RUN, out, quality=quality)
        return out

    def release(self, out: Path, *sites: str, **more: Any) -> Released:
        statements = tuple(self.state(site, name=f"{site}-{out.name}", within=out.parent) for site in sites)
        return release(self.coordinator, replace(Order(RUN, out, statements=statements), **more))

    def resigned(self, statement: Statement, **changes: Any) -> Statement:
        """The same statement with other words, signed by its own hospital."""
        return replace(statement, **changes).sign(self.node(statement.site).identity)
