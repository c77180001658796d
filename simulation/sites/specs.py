"""The hospitals: what each of them scans with, how well, and whom.

Eight sites take part in a federation; two more are never trained on and show how a model does on a scanner that
nobody had. Sequence timings and doses lie in the clinical range; they were chosen so that no two sites look alike.
"""

from dataclasses import dataclass
from enum import StrEnum

from shared.errors import UsageError

DEFAULT_SEED = 20260101


class PulseSequence(StrEnum):
    """Pulse sequences by their signal equation."""

    SPIN_ECHO = "SE"
    SPOILED_GRADIENT_ECHO = "GRE"
    FLAIR = "FLAIR"


class Kernel(StrEnum):
    """Reconstruction kernels: the window on the ramp filter."""

    SOFT = "soft"
    SHARP = "sharp"


class ContrastPhase(StrEnum):
    """When after the injection of contrast agent the abdomen is scanned."""

    NATIVE = "native"
    ARTERIAL = "arterial"
    PORTAL = "portal"


@dataclass(frozen=True)
class MrProtocol:
    """How a site takes MR images.

    Attributes:
        sequence: The signal equation.
        field: Magnetic field, tesla; one of those in ``mri.TISSUES``.
        tr, te, ti: Repetition, echo and inversion time, ms (``ti`` 0 without inversion).
        flip: Flip angle, degrees (gradient echo only).
        noise: Standard deviation of each of the two noise channels in one average, as a fraction of the brightest
            brain tissue's signal (BrainWeb's convention, Kwan et al. 1999).
        kept_phase, kept_read: The fraction of k-space that is acquired in each direction, in (0, 1].
        shading: Peak-to-peak height of the coil's bias field, as a fraction.
        fat: The share of fat's signal that fat saturation leaves, 1 without.
        echo_train: Echoes per excitation; only written to the header.
        averages: Number of averages of the reference series; the fast one has a single average.
        thickness, gap: Slice thickness and distance of slice centres, mm.
    """

    sequence: PulseSequence
    field: float
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0
    noise: float = 0.06
    kept_phase: float = 1.0
    kept_read: float = 1.0
    shading: float = 0.2
    fat: float = 1.0
    echo_train: int = 1
    averages: int = 32
    thickness: float = 4.0
    gap: float = 6.0

    modality = "MR"


@dataclass(frozen=True)
class CtProtocol:
    """How a site takes CT images.

    Attributes:
        phase: Contrast phase; sets the Hounsfield values of the organs.
        kernel: Reconstruction kernel.
        photons: Photons that an unattenuated detector element counts per view at the low dose.
        dose_ratio: How many times the low dose the reference series gets.
        current: Tube current of the low-dose series, mA; photons are proportional to it.
        rotation: Exposure time of one rotation, ms.
        signed: Whether pixels are stored signed (two's complement, intercept 0) or unsigned (intercept -1024).
        thickness, gap: Slice thickness and distance of slice centres, mm.
    """

    phase: ContrastPhase
    kernel: Kernel
    photons: float
    dose_ratio: float = 40.0
    current: float = 20.0
    rotation: float = 500.0
    signed: bool = False
    thickness: float = 5.0
    gap: float = 7.0

    modality = "CT"


@dataclass(frozen=True)
class SiteSpec:
    """One hospital.

    Attributes:
        id: Short name, also its folder.
        title: The hospital's (invented) name.
        protocol: What it scans with.
        patients: How many patients it has when the caller does not say.
        fov: Field of view, mm; with the matrix it gives the pixel spacing.
        matrix: Its image matrix relative to the size that the caller asks for.
        ageing: 0 for a young population, 1 for a memory clinic: wider ventricles, more white-matter lesions.
        vendor, model, description: Manufacturer, device and series description in its headers.
        charset: DICOM Specific Character Set (0008,0005) values; empty for the default repertoire.
        script: Which bank of ``names.py`` its patients' names come from.
        second: How it takes the second contrast of each study, fast only; None for sites that take one contrast.
        second_matrix: The matrix of that series relative to the site's own.
    """

    id: str
    title: str
    protocol: MrProtocol | CtProtocol
    patients: int
    fov: float
    vendor: str
    model: str
    description: str
    matrix: float = 1.0
    ageing: float = 0.0
    charset: tuple[str, ...] = ()
    script: str = "latin"
    second: MrProtocol | None = None
    second_matrix: float = 1.0

    def pixels(self, size: int, *, second: bool = False) -> int:
        """Rows and columns of its images when the caller asks for ``size``: a multiple of 16, at least 32."""
        factor = self.matrix * (self.second_matrix if second else 1.0)
        return max(32, round(size * factor / 16) * 16)


SITES: tuple[SiteSpec, ...] = (
    SiteSpec(
        "H1",
        "Northgate General",
        MrProtocol(PulseSequence.SPIN_ECHO, 1.5, tr=500, te=12, noise=0.07, kept_phase=0.80, shading=0.20),
        patients=16,
        fov=240,
        vendor="SIEMENS",
        model="Symphony",
        description="t1_se_tra",
        charset=("ISO_IR 100",),
        script="western",
    ),
    SiteSpec(
        "H2",
        "St Brannock University Hospital",
        MrProtocol(PulseSequence.SPOILED_GRADIENT_ECHO, 3.0, tr=20, te=4, flip=25, noise=0.05, shading=0.35, fat=0.25),
        patients=20,
        fov=232,
        vendor="GE MEDICAL SYSTEMS",
        model="SIGNA Premier",
        description="Ax BRAVO",
        ageing=0.1,
        charset=("ISO_IR 192",),
        script="mixed",
    ),
    SiteSpec(
        "H3",
        "Ostermark Clinic",
        MrProtocol(
            PulseSequence.SPIN_ECHO, 3.0, tr=4500, te=95, noise=0.06, kept_phase=0.85, shading=0.30, echo_train=15
        ),
        patients=14,
        fov=236,
        vendor="Philips Medical Systems",
        model="Ingenia",
        description="T2W_TSE",
        ageing=0.3,
        charset=("ISO_IR 144",),
        script="cyrillic",
    ),
    SiteSpec(
        "H4",
        "Memory Centre Lindholm",
        MrProtocol(
            PulseSequence.FLAIR,
            1.5,
            tr=9000,
            te=120,
            ti=1700,
            noise=0.06,
            kept_phase=0.75,
            kept_read=0.95,
            echo_train=21,
        ),
        patients=12,
        fov=240,
        vendor="SIEMENS",
        model="Avanto",
        description="t2_flair_tra",
        ageing=0.9,
        charset=("ISO_IR 100",),
        script="western",
    ),
    SiteSpec(
        "H5",
        "Kettering Eastside",
        MrProtocol(
            PulseSequence.SPIN_ECHO, 1.5, tr=3300, te=30, noise=0.05, kept_phase=0.75, kept_read=0.90, shading=0.25
        ),
        patients=10,
        fov=250,
        vendor="TOSHIBA",
        model="Vantage",
        description="PD_SE",
        ageing=0.4,
    ),
    SiteSpec(
        "H6",
        "Rural Outreach Unit 6",
        MrProtocol(
            PulseSequence.SPIN_ECHO,
            0.3,
            tr=420,
            te=15,
            noise=0.12,
            kept_phase=0.80,
            kept_read=0.90,
            shading=0.10,
            averages=64,
        ),
        patients=8,
        fov=256,
        matrix=0.8,
        vendor="HITACHI",
        model="AIRIS",
        description="T1_lowfield",
        ageing=0.5,
        charset=("", "ISO 2022 IR 87"),
        script="japanese",
    ),
    SiteSpec(
        "H7",
        "Halden Cancer Institute",
        CtProtocol(ContrastPhase.PORTAL, Kernel.SOFT, photons=7e4),
        patients=14,
        fov=390,
        vendor="SIEMENS",
        model="Definition",
        description="ABD PV",
        charset=("ISO_IR 192",),
        script="mixed",
    ),
    SiteSpec(
        "H8",
        "Marrow Bay Hospital",
        CtProtocol(ContrastPhase.NATIVE, Kernel.SHARP, photons=4e4, signed=True),
        patients=10,
        fov=400,
        vendor="GE MEDICAL SYSTEMS",
        model="LightSpeed",
        description="ABD NC",
        charset=("ISO 2022 IR 6", "ISO 2022 IR 149"),
        script="korean",
    ),
)
"""The eight hospitals of the federation."""

UNSEEN: tuple[SiteSpec, ...] = (
    SiteSpec(
        "X1",
        "External Validation Hospital",
        MrProtocol(
            PulseSequence.SPIN_ECHO,
            3.0,
            tr=600,
            te=18,
            noise=0.09,
            kept_phase=0.9,
            kept_read=0.9,
            shading=0.30,
            fat=0.4,
        ),
        patients=6,
        fov=244,
        vendor="UIH",
        model="uMR 780",
        description="t1_ext",
        ageing=0.6,
        charset=("GB18030",),
        script="chinese",
    ),
    SiteSpec(
        "X2",
        "External CT Centre",
        CtProtocol(ContrastPhase.ARTERIAL, Kernel.SOFT, photons=5e4),
        patients=6,
        fov=410,
        vendor="Canon Medical Systems",
        model="Aquilion",
        description="ABD ART",
        charset=("ISO_IR 126",),
        script="greek",
    ),
)
"""Two hospitals that no model is trained on."""

PAIRED: tuple[SiteSpec, ...] = (
    SiteSpec(
        "P1",
        "Northgate Imaging Centre",
        MrProtocol(PulseSequence.SPIN_ECHO, 1.5, tr=500, te=14, noise=0.09, kept_phase=0.9, gap=4.0),
        patients=12,
        fov=240,
        vendor="SIEMENS",
        model="Sola",
        description="t1_se_tra",
        ageing=0.4,
        second=MrProtocol(PulseSequence.SPIN_ECHO, 1.5, tr=4000, te=100, noise=0.05, echo_train=15, gap=4.0),
        second_matrix=0.75,
    ),
    SiteSpec(
        "P2",
        "Harbour Neurology Clinic",
        MrProtocol(PulseSequence.SPIN_ECHO, 3.0, tr=600, te=12, noise=0.08, shading=0.30, gap=4.0),
        patients=12,
        fov=236,
        vendor="Philips Medical Systems",
        model="Elition",
        description="T1W_SE",
        ageing=0.6,
        second=MrProtocol(
            PulseSequence.FLAIR, 3.0, tr=9000, te=110, ti=2400, noise=0.05, echo_train=21, thickness=5.0, gap=5.0
        ),
    ),
    SiteSpec(
        "P3",
        "Ashdown Regional Hospital",
        MrProtocol(PulseSequence.SPOILED_GRADIENT_ECHO, 1.5, tr=250, te=4.6, flip=70.0, noise=0.09, gap=4.0),
        patients=10,
        fov=244,
        vendor="GE MEDICAL SYSTEMS",
        model="Artist",
        description="AX T1 GRE",
        ageing=0.5,
        second=MrProtocol(PulseSequence.SPIN_ECHO, 1.5, tr=3600, te=90, noise=0.05, echo_train=12, gap=4.0),
        second_matrix=1.25,
    ),
)
"""Three hospitals that take two contrasts of each head; the patient moves in between. Only by name."""

MOST_DIFFERENT_FIRST = ("H1", "H7", "H3", "H2", "H8", "H4", "H6", "H5")
"""The order in which a caller who asks for n sites gets them: both modalities and distant contrasts early."""


def choose_sites(wanted: str) -> tuple[SiteSpec, ...]:
    """The sites that ``wanted`` names: a number, ``all`` (with the unseen ones), or ids with commas (``H1,H7,X1``).

    Raises:
        UsageError: An id or a number that there is not, or the same site twice.
    """
    known = {site.id: site for site in SITES + UNSEEN + PAIRED}
    hint = f"use 1 to {len(SITES)}, 'all', or ids out of {', '.join(known)}"
    if wanted.strip().lower() == "all":
        return SITES + UNSEEN
    if wanted.strip().isdecimal():
        count = int(wanted)
        if not 1 <= count <= len(SITES):
            raise UsageError(f"there are {len(SITES)} sites, not {count}", hint=hint)
        chosen = MOST_DIFFERENT_FIRST[:count]
        return tuple(site for site in SITES if site.id in chosen)
    ids = [part.strip().upper() for part in wanted.split(",")]
    for name in ids:
        if name not in known:
            raise UsageError(f"there is no site {name!r}", hint=hint)
    if len(set(ids)) != len(ids):
        raise UsageError(f"a site is named twice in {wanted!r}", hint=hint)
    return tuple(known[name] for name in ids)
