"""A made-up run for the tests of the page. Every figure is invented; the pictures are ellipses, not anatomy."""

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from shared.imaging.pictures import grayscale
from simulation.pictures import class_picture, intensity_picture
from simulation.record import (
    ArmRecord,
    CurvePoint,
    DeidRecord,
    KindRecord,
    LogRecord,
    Machine,
    Metrics,
    Picture,
    PrivacyRecord,
    RunRecord,
    SeenRecord,
    SiteRecord,
    SweepPoint,
    TaskRecord,
    WireRecord,
)

SIDE = 96
SITES = (
    SiteRecord("H1", "MR", "T1 spin echo", "1.5 T", "7% Rician", 12, 4, 16, 320),
    SiteRecord("H2", "MR", "T1 gradient echo", "3 T", "5% Rician", 15, 5, 20, 400),
    SiteRecord("H3", "MR", "T2 turbo spin echo", "3 T", "6% Rician", 11, 3, 14, 281),
    SiteRecord("H7", "CT", "Abdomen, portal venous", "soft kernel", "9000 photons a view", 10, 4, 14, 280),
    SiteRecord("X1", "MR", "T1 gradient echo", "3 T", "9% Rician", 0, 6, 6, 123, member=False),
)
CLASSES = ("background", "cerebrospinal fluid", "grey matter", "white matter")


def quality(psnr: float) -> Metrics:
    """Consistent made-up metrics of an image."""
    return {"mse": 10 ** (-psnr / 10), "psnr": psnr, "ssim": round(1 / (1 + 10 ** ((25.7 - psnr) / 8)), 4)}


def overlap(miou: float) -> Metrics:
    """Consistent made-up metrics of a segmentation."""
    return {
        "miou": miou,
        "miou_foreground": round(miou - 0.0713, 4),
        "dice": round(0.5 + miou / 2.1, 4),
        "accuracy": round(0.7 + miou / 3.3, 4),
    }


def phantom(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Nested ellipses with their classes, [96, 96] each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for label, size in ((2, 0.8), (3, 0.62), (1, 0.22)):
        tall, wide = size * rng.uniform(0.9, 1.1, 2)
        labels[(x / (0.8 * wide)) ** 2 + (y / tall) ** 2 < 1] = label
    image = np.choose(labels, (0.02, 0.25, 0.55, 0.8)) + 0.08 * np.sin(9 * x + seed) * (labels > 0)
    return image.astype(np.float32), labels


def _curve(values: list[float], make: type | object = quality) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(5 * index, make(value)) for index, value in enumerate(values))  # type: ignore[operator]


def _noise(image: NDArray[np.float32], level: float, seed: int) -> NDArray[np.float32]:
    return image + np.random.default_rng(seed).normal(0, level, image.shape).astype(np.float32)


def _image_row(site: str, seed: int, method: str, base: float) -> Picture:
    truth, _ = phantom(seed)
    return intensity_picture(
        site,
        "one slice of a held-out patient",
        inputs=(_noise(truth, 0.12, seed), quality(base)),
        classical=[(method, _noise(truth, 0.05, seed + 1), quality(base + 2.1))],
        ours=("federated", _noise(truth, 0.02, seed + 2), quality(base + 6.3)),
        truth=truth,
    )


def _class_row(site: str, seed: int) -> Picture:
    image, labels = phantom(seed)
    return class_picture(
        site,
        "one slice of a held-out patient",
        image=_noise(image, 0.1, seed),
        classical=[("multi_otsu", np.roll(labels, 5, 0), overlap(0.482))],
        ours=("federated", np.roll(labels, 1, 1), overlap(0.717)),
        truth=labels,
    )


_TOGETHER = {"pooled": quality(33.52), "local": quality(31.04), "median": quality(29.6), "nlm_rician": quality(33.3)}
DENOISE = TaskRecord(
    together=_TOGETHER,
    name="denoise",
    title="Denoising",
    main_metric="psnr",
    rounds=20,
    classical={
        "noisy": quality(27.81),
        "histogram_equalisation": quality(11.37),
        "mean": quality(26.02),
        "median": quality(29.41),
        "gaussian": quality(28.93),
        "butterworth": quality(28.27),
        "wiener": quality(28.64),
        "nlm": quality(29.44),
        "nlm_rician": quality(33.12),
        "tv": quality(29.53),
    },
    arms={
        "local": ArmRecord(quality(30.61), quality(33.62), quality(30.14), 64_000, 4000),
        "pooled": ArmRecord(quality(33.58), None, quality(33.49), 64_000, 4000),
        "federated": ArmRecord(
            quality(32.53),
            None,
            quality(32.71),
            64_000,
            4000,
            71.3,
            _curve([21.3, 29.8, 31.4, 32.2, 32.53]),
        ),
        "federated_dp": ArmRecord(
            quality(30.87), None, quality(30.92), None, 4000, 82.9, _curve([21.3, 27.1, 29.2, 30.3, 30.87])
        ),
        "federated_shared": ArmRecord(quality(31.92), None, quality(31.77), None, 4000, 84.2, _curve([21.3, 31.92])),
        "public": ArmRecord(quality(30.22), None, quality(30.61), 0, 0),
        "tuned": ArmRecord(quality(32.41), None, quality(32.02), None, 4000, 80.3),
    },
    sweep=(
        *(SweepPoint("tuned", None, again, quality(32.41 + 0.05 * again), quality(32.02)) for again in range(3)),
        *(
            SweepPoint(kind, level, again, quality(base + gain * level + 0.1 * again), quality(base))
            for kind, base, gain in (("local", 30.23, 0.08), ("shared", 31.12, 0.1))
            for level in (1.0, 3.0, 8.0)
            for again in range(3)
        ),
    ),
    per_site={
        site.id: {
            "median": quality(29.0 + 0.37 * row),
            "nlm_rician": quality(32.1 + 0.53 * row),
            "pooled": quality(33.2 + 0.31 * row),
            "federated": quality(32.4 + 0.43 * row),
            "federated_dp": quality(30.6 + 0.29 * row),
        }
        | ({"local": quality(33.1 + 0.47 * row)} if site.member else {})
        for row, site in enumerate(SITES)
    },
    local_matrix={
        home: {site: quality(33.4 if site == home else 31.7 - 0.71 * abs(i - j)) for j, site in enumerate(members)}
        for members in [[site.id for site in SITES if site.member]]
        for i, home in enumerate(members)
    },
    pictures=tuple(
        _image_row(site.id, number, "median" if number % 2 else "nlm_rician", 27.3 + number)
        for number, site in enumerate(SITES)
    ),
    parameters=110_273,
    setup="20 rounds of 50 steps of 16 patches at each hospital with SGD, Adam at the coordinator",
)
SUPERRES = TaskRecord(
    name="superres",
    title="Super-resolution ×2",
    main_metric="psnr",
    rounds=15,
    classical={"bicubic": quality(26.71), "lanczos": quality(27.18), "zero_fill": quality(27.33)},
    arms={
        "federated": ArmRecord(quality(29.24), None, quality(29.91), 48_000, 3000, 64.0, _curve([22.4, 27.9, 29.24]))
    },
    per_site={"H1": {"zero_fill": quality(27.6), "federated": quality(29.3)}},
    pictures=(_image_row("H1", 11, "zero_fill", 23.9),),
    parameters=63_409,
)
SEGMENT = TaskRecord(
    name="segment",
    title="Segmentation",
    main_metric="miou",
    rounds=18,
    classical={"multi_otsu": overlap(0.482), "gmm": overlap(0.511), "gmm_brain": overlap(0.701)},
    arms={
        "federated": ArmRecord(
            overlap(0.623), None, overlap(0.644), 36_000, 2250, 58.5, _curve([0.104, 0.447, 0.551, 0.623], overlap)
        )
    },
    per_site={"H1": {"multi_otsu": overlap(0.493), "gmm_brain": overlap(0.688), "federated": overlap(0.634)}},
    pictures=(_class_row("H1", 21), _class_row("H2", 22)),
    parameters=121_556,
    classes=CLASSES,
)


def example() -> RunRecord:
    """A whole made-up run: every arm for denoising, the federated one for the other tasks."""
    return RunRecord(
        title="Made-up run: 4 virtual hospitals",
        started=datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC),
        seconds=312.4,
        seed=20260314,
        rounds=20,
        machine=Machine(2, "Linux x86_64, Python 3.11.9"),
        versions={"fedward": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0"},
        sites=SITES,
        tasks=(DENOISE, SUPERRES, SEGMENT),
        privacy=tuple(
            PrivacyRecord(site.id, ("denoise",), 5.547 + row, 1e-5, 1000, 0.35, 1.83, 1.0, site.train_patients)
            for row, site in enumerate(site for site in SITES if site.member)
        ),
        deid=DeidRecord(
            files=2921,
            released=2907,
            quarantined=11,
            refused=3,
            profile="basic, dates shifted",
            profile_sha256="5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            reasons={"burned_in_annotation": 11, "not DICOM": 3},
            rules={"remove": 41_233, "replace by a dummy": 8812, "pseudonym": 5814, "shift the date": 11_628},
        ),
        logs=tuple(
            LogRecord(owner, 412 + 7 * row, True, f"{row}a" * 32)
            for row, owner in enumerate([site.id for site in SITES] + ["coordinator"])
        ),
        wire=WireRecord(
            188_334_112,
            187_912_340,
            1624,
            {"denoise": 441_092, "superres": 253_636},
            masked=True,
            per_parameter={"denoise": 4.0203, "superres": 4.0041},
            kinds=(
                KindRecord("query.secagg_unmask", 80, 79, 52_000, 31_000),
                KindRecord("train", 80, 80, 188_000_000, 187_000_000),
            ),
            seen=SeenRecord(
                "H1",
                "denoise",
                10,
                109_713,
                9_216,
                grayscale(np.full((96, 96), 0.5)),
                grayscale(np.eye(96)),
                -0.0034,
                0.0059,
            ),
        ),
        limits=(
            "All patients are synthetic and descend from one brain atlas: scores are upper bounds for real images.",
            "Masks hide one update, not what a sum tells.",
        ),
        charter_sha256="9b74c9897bac770ffc029102a200c5de" * 2,
        command="fedward simulate demo --out runs/demo",
    )
