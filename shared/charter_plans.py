"""The parts of a charter as plain values: what is trained, how private it is, who takes part and how masks are set."""

from dataclasses import dataclass
from typing import Literal

PrivacyMode = Literal["off", "patient", "distributed"]
Clipping = Literal["automatic", "flat"]
Scores = Literal["masked", "open"]
Start = Literal["fresh", "public-1", "release"]
Trained = Literal["all", "biases_norms_head", "head"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TaskPlan:
    """How one task is trained.

    Attributes:
        name: A registered task (:func:`shared.imaging.tasks.task_names`).
        rounds: Rounds of the federation.
        local_steps: Optimiser steps that each hospital takes in a round.
        batch: Patches in a step (without differential privacy).
        local_optimizer: Class name in ``torch.optim`` that a hospital uses within a round.
        local_lr: Its learning rate; with ``SGD`` at the coordinator it falls along a half cosine over the rounds.
        server_optimizer: Class name in ``torch.optim`` that the coordinator applies to the averaged update
            (Reddi et al. 2021, "Adaptive Federated Optimization"); ``SGD`` with rate 1 is federated averaging.
        server_lr: Its learning rate; for any but ``SGD`` it falls along a half cosine over the rounds.
        proximal: Weight mu of the FedProx term mu/2 |w - w_round|^2 (Li et al. 2020); 0 switches it off.
        evaluate_every: Hospitals evaluate on their held-out patients every so many rounds, and after the last.
        network: Which of the task's networks; None for its first one (:attr:`shared.imaging.tasks.Task.networks`).
        start: ``fresh`` for random weights from the charter's seed, or the name of public weights that are part of the
            release at both ends (:mod:`shared.imaging.public`), or ``release`` for those of :attr:`release`.
        release: SHA-256 of the manifest of a released model that every party holds, where it starts from one; None
            elsewhere. Layers that match by name and shape are taken from it; the others begin at random.
        trained: Which parameters train, and travel: ``all``; ``biases_norms_head``: biases, the affine parameters of
            normalisation and the last layer; ``head``: the last layer.
        precision: ``float32``, or ``bfloat16`` for autocast at the hospitals.
        average: Decay of the exponential moving average of the coordinator's models that is evaluated and released;
            0 takes the last model. Post-processing: it costs no privacy.
        weight_decay: Of the hospital's optimiser; None for that optimiser's default in ``torch.optim``, which is 0 but
            for AdamW. It depends on the weights alone and costs no privacy.
        dropout: Chance of each channel before the last layer to be left out in training; None for no dropout.
        zoom: Training patches are made up to this share larger or smaller; None leaves them as they are.
        rotation: They are turned by up to so many degrees; None leaves them as they are.
        input_noise: Largest standard deviation of noise that is added to what the network sees; None adds none.
        foreground: Share of patches that are chosen for their foreground; None draws all alike.
        adversarial: Every patch is changed against the network before it trains on it, each pixel by no more than this
            share of the patch's range (:func:`client.training.gradients.against`); None for patches as they are.
    """

    name: str
    rounds: int
    local_steps: int
    batch: int = 8
    local_optimizer: str = "SGD"
    local_lr: float = 0.1
    server_optimizer: str = "SGD"
    server_lr: float = 1.0
    proximal: float = 0.0
    evaluate_every: int = 5
    network: str | None = None
    start: Start = "fresh"
    trained: Trained = "all"
    precision: Precision = "float32"
    average: float = 0.0
    weight_decay: float | None = None
    dropout: float | None = None
    zoom: float | None = None
    rotation: float | None = None
    input_noise: float | None = None
    foreground: float | None = None
    adversarial: float | None = None
    release: str | None = None


@dataclass(frozen=True)
class PrivacyPlan:
    """Patient-level differential privacy of every training step at every hospital.

    Attributes:
        mode: ``off``; ``patient``: every hospital adds all of the noise, so that one patient more or less changes what
            leaves it by no more than epsilon tells; or ``distributed``: each adds a share, and the guarantee is that of
            the sum, which secure aggregation alone lets out (:mod:`shared.noise_shares`).
        clip: Bound C on the L2 norm of one patient's gradient.
        clipping: ``automatic`` scales every gradient to the bound, ``flat`` only longer ones.
        sample_rate: Chance q of each patient to be in a step (Poisson sampling).
        slices_per_patient: Patches drawn from a sampled patient; costs no privacy.
        noise_multiplier: Standard deviation of the noise on the sum, in units of C.
        delta: The delta of the guarantee, or None for min(1e-5, 1/(10 N)) with N patients.
        patients: The agreed number of patients of all hospitals together, a public constant that divides the sum of a
            distributed step; needed there. It need not be exact: nobody's presence may change it.
        scores: Sums of scores and losses leave ``masked``, so that only their total is read, or by this charter's
            consent ``open`` where there are no masks.
    """

    mode: PrivacyMode = "off"
    clip: float = 1.0
    clipping: Clipping = "automatic"
    sample_rate: float = 0.5
    slices_per_patient: int = 4
    noise_multiplier: float = 1.0
    delta: float | None = None
    patients: int | None = None
    scores: Scores = "masked"


@dataclass(frozen=True)
class CharterMember:
    """One hospital of the federation.

    Attributes:
        name: Its name in the federation: that of its node (``node.json``).
        identity: Its Ed25519 public key (RFC 8032), 64 hexadecimal digits.
        country: Where it is, ISO 3166-1 alpha-2, or None where it does not say. What leaves another hospital comes to
            it in the model (GDPR Art. 44-49; PIPL Art. 38-40).
    """

    name: str
    identity: str
    country: str | None = None


@dataclass(frozen=True)
class CoordinatorPlan:
    """Who runs the rounds, and how a hospital knows that it is connected to nobody else.

    Attributes:
        name: Its name.
        address: ``host:port`` of its gate.
        authority: SHA-256 of the DER of the certificate that signs those of the gate and of the hospitals, 64
            hexadecimal digits.
        country: Where it is, ISO 3166-1 alpha-2, or None where it does not say.
    """

    name: str
    address: str
    authority: str
    country: str | None = None


@dataclass(frozen=True)
class MaskingPlan:
    """Secure aggregation: the coordinator sees sums and no single update (docs/secure-aggregation.md).

    Attributes:
        threshold: T: so many members must confirm and unmask a round; the others may drop out of it.
        colluding: C: hospitals that might work with the coordinator without learning another one's update.
        min_included: A sum over fewer hospitals is refused; at least 3.
        ring_bits: Bits of a masked number: 32, or 16 with stochastic rounding at half the upload.
        clip: Every element of an update is clipped to [-clip, clip].
        w_max: The greatest weight (training slices) of one hospital; more count as this many.
        post_quantum: Whether ML-KEM-768 (FIPS 203) joins X25519.
        apps: SHA-256 of app bundles, 64 hexadecimal digits each; bound into every signature. Where it is not empty, a
            hospital takes part with a release of these only (:mod:`shared.bundle`).
    """

    threshold: int
    colluding: int = 1
    min_included: int = 3
    ring_bits: int = 32
    clip: float = 4.0
    w_max: int = 10_000
    post_quantum: bool = False
    apps: tuple[str, ...] = ()
