"""The words and number formats of the run's page: what a name in the record is called in front of people."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shared import page
from shared.imaging import classical

NOTHING = "\N{EN DASH}"

# Said on every page in the same way.
count, plural, humanise = page.count, page.plural, page.humanise


@dataclass(frozen=True)
class MetricNote:
    """How a metric is shown and what exactly it is.

    Attributes:
        title: Column heading.
        unit: Unit behind a single value, with its leading space; empty for a plain number.
        higher_better: Whether larger values are better.
        decimals: Digits after the point.
        scale: What the value is multiplied with before it is shown; the heading says so.
        definition: Definition, library and data range, since implementations differ.
    """

    title: str
    unit: str
    higher_better: bool
    decimals: int
    definition: str
    scale: float = 1.0


METRICS: Mapping[str, MetricNote] = {
    "psnr": MetricNote(
        "PSNR, dB",
        " dB",
        True,
        2,
        "Peak signal-to-noise ratio, −10 log10(MSE), of each slice, then the mean; data range 1. Higher is better. "
        "3 dB is half the squared error.",
    ),
    "ssim": MetricNote(
        "SSIM",
        "",
        True,
        3,
        "Structural similarity (Wang et al. 2004) of each slice, then the mean: scikit-image, Gaussian window, "
        "σ = 1.5, biased covariance, data range 1. Other implementations give other values: torchmetrics reads "
        "0.554 where scikit-image and MONAI read 0.614. 1 is identity.",
    ),
    "mse": MetricNote(
        "MSE × 10³",
        "",
        False,
        3,
        "Mean squared error of each slice on intensities from 0 to 1, then the mean, times 1000. Lower is better.",
        scale=1000.0,
    ),
    "miou": MetricNote(
        "mIoU",
        "",
        True,
        3,
        "Mean intersection over union of all classes, background included, from one confusion matrix summed over all "
        "pixels of all slices; a class that occurs nowhere does not count. 1 is identity.",
    ),
    "miou_foreground": MetricNote(
        "mIoU, foreground",
        "",
        True,
        3,
        "The same mean without the background.",
    ),
    "dice": MetricNote(
        "Dice",
        "",
        True,
        3,
        "Mean Dice coefficient of the classes but background, from the same summed confusion matrix. 1 is identity.",
    ),
    "accuracy": MetricNote(
        "Accuracy",
        "",
        True,
        3,
        "Share of pixels given their true class, background included: a large background flatters every method.",
    ),
}

# The main metric first, then the one most often quoted beside it.
METRIC_ORDER = tuple(METRICS)
# What stands under a picture and is drawn over the rounds; the tables hold every metric.
HEADLINE_METRICS = ("psnr", "ssim", "miou", "dice")


@dataclass(frozen=True)
class ArmNote:
    """What a way of training is called and what it means for a hospital."""

    title: str
    meaning: str


MESSAGES: Mapping[str, str] = {
    "query.secagg_advertise": "Keys of an epoch",
    "query.secagg_kem": "Keys of an epoch, post-quantum",
    "query.secagg_share": "Sealed shares for the rounds of an epoch",
    "train": "Training: the model, and the update",
    "evaluate": "Evaluation: the model, and the scores",
    "query.secagg_confirm": "Signatures under who is in a sum",
    "query.secagg_unmask": "Shares that take the masks off a sum",
}
"""What each type of message carries, in the order of a round."""
ARMS: Mapping[str, ArmNote] = {
    "initial": ArmNote("Starting point", "The network before any hospital trained it."),
    "local": ArmNote("Local only", "Each hospital trains alone, on its own patients."),
    "pooled": ArmNote(
        "Pooled",
        "All patients in one place. Hospitals would have to hand over their images: a ceiling, not an option.",
    ),
    "federated": ArmNote(
        "Federated", "One model for all. Each hospital trains on its own patients and sends only model updates."
    ),
    "personal": ArmNote(
        "Federated, then personal",
        "The federated model, trained on at each hospital and mixed with what it was, as far as patients kept back "
        "from that training gain by it. It stays there.",
    ),
    "public": ArmNote(
        "Public model", "The published starting point, trained on synthetic phantoms: no hospital has had a part in it."
    ),
    "tuned": ArmNote(
        "Public, tuned without privacy",
        "The public model after federated training of a few of its parameters, without noise: what privacy could keep.",
    ),
    "federated_dp": ArmNote(
        "Public, tuned under DP, local noise",
        "The same under patient-level differential privacy: each patient's influence is bounded, and every hospital "
        "covers it with noise of its own before anything leaves.",
    ),
    "federated_shared": ArmNote(
        "Public, tuned under DP, shared noise",
        "The same guarantee for the sum, which is all that anybody reads: each hospital adds a share of the noise.",
    ),
    "scratch": ArmNote(
        "From nothing under DP, shared noise",
        "All parameters, from random weights, under the same guarantee: what training without a public start gives.",
    ),
}

# What each task does, for a reader who has never trained a model.
TASKS: Mapping[str, str] = {
    "denoise": "Take the noise out of a slice. The input is the noisy (or low-dose) series of a study, the truth its "
    "series with less noise.",
    "denoise_volume": "Take the noise out of a slice that is given with two neighbours on either side. The truth is "
    "the series with less noise.",
    "denoise_self": "Take the noise out of a slice, learnt from noisy series alone. A series with less noise is what "
    "the result is judged by, where there is one.",
    "denoise_pair": "Take the noise out of a slice that is given with another contrast of the same place, registered "
    "onto it. The truth is the series with less noise.",
    "superres": "Double the resolution of a slice in both directions. The input is what a scan of half the matrix "
    "would have given, the truth the full one.",
    "superres_gan": "The same doubling, by a network that also learns to deceive a second one, which tells its images "
    "from full scans. They look sharper; what was added is likely, not measured, and is no finding.",
    "superres4": "Four times the resolution of a slice in both directions. The input is what a scan of a quarter of "
    "the matrix would have given, the truth the full one.",
    "superres4_gan": "Four times the resolution, by a network that also learns to deceive a second one. Its images "
    "look sharper; what was added is likely, not measured, and is no finding.",
    "masked": "Fill in what was hidden of a slice: training for a network that is to learn something else afterwards.",
    "segment": "Name the tissue of every pixel, from the noisy series. The truth is the study's DICOM segmentation. "
    "“Oracle” marks classical methods that the truth itself told which cluster is which tissue.",
    "segment_pair": "Name the tissue of every pixel, from the noisy series and another contrast of the same place, "
    "registered onto it. The classical methods see the noisy series alone.",
}

# Classical methods that the survey does not name and that are harder to beat; the others are the survey's.
_STRONGER = frozenset(
    {"tv", "nlm", "nlm_rician", "nlm_volume", "nlm_volume_rician", "gmm", "gmm_brain", "interpolated"}
)
_UNTOUCHED = frozenset({"noisy", "masked"})


_ACTIONS: Mapping[str, str] = {
    "X": "Removed",
    "Z": "Emptied",
    "D": "Replaced by a dummy value",
    "K": "Kept",
    "C": "Cleaned",
    "U": "UID replaced",
}


def classical_title(name: str) -> str:
    """What a classical method is called; an unknown name is shown as it is, with its underscores as blanks."""
    return classical.TITLES.get(name) or humanise(name)


def is_stronger(name: str) -> bool:
    """Whether the method stands among the stronger comparators rather than among the survey's methods."""
    return name in _STRONGER


def is_untouched(name: str) -> bool:
    """Whether the row is the input itself: a line to start from, not a method to beat."""
    return name in _UNTOUCHED


def method_title(name: str) -> str:
    """What an arm or a classical method is called."""
    return ARMS[name].title if name in ARMS else classical_title(name)


def rule_title(name: str) -> str:
    """What a de-identification rule does, where its name is an action code of DICOM PS3.15 Table E.1-1a."""
    return f"{_ACTIONS[name]} ({name})" if name in _ACTIONS else humanise(name)


def metric_note(name: str) -> MetricNote:
    """How to show the metric; an unknown one is shown plainly, with a definition that says that it has none."""
    return METRICS.get(name) or MetricNote(humanise(name), "", True, 4, "No definition was recorded.")


def number(name: str, value: float | None) -> str:
    """A metric's value as the tables show it, without its unit."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    note = metric_note(name)
    return signed(f"{value * note.scale:.{note.decimals}f}")


def signed(text: str) -> str:
    """A formatted number with a true minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")


def spelled(value: int, one: str, many: str = "") -> str:
    """:func:`plural` as a sentence begins or reads: small numbers in words."""
    names = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return (
        f"{names[value]} {one if value == 1 else many or one + 's'}" if value < len(names) else plural(value, one, many)
    )


def size(octets: int) -> str:
    """Bytes in decimal multiples (ISO/IEC 80000-13)."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit always returns")


def duration(seconds: float) -> str:
    """Seconds as ``"48 s"``, ``"5 min 12 s"`` or ``"1 h 03 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def plain(value: float, digits: int = 3) -> str:
    """A figure such as a noise multiplier with ``digits`` significant digits; powers of ten where it is very small."""
    if math.isinf(value):
        return "∞"
    if value == 0 or abs(value) >= 1e-3:
        return signed(f"{value:.{digits}g}")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    mantissa = mantissa.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{signed(mantissa)} × {power}"


def bound(value: float) -> str:
    """An upper bound such as epsilon with two decimals, rounded up: a rounded guarantee must not promise more."""
    return "∞" if math.isinf(value) else f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"


def certainty(epsilon: float, delta: float) -> float:
    """The most often that a guess "this patient took part" can be right, from even odds, under (epsilon, delta).

    With trade-off bounds of (epsilon, delta)-DP (Kairouz, Oh and Viswanath 2015, section 2) the best balanced accuracy
    of any test is ``(exp(epsilon) + delta) / (1 + exp(epsilon))``. Between 0.5 (no information) and 1 (no protection).
    """
    odds = math.exp(-epsilon)
    return (1.0 + delta * odds) / (1.0 + odds)


def percent(share: float) -> str:
    """An upper bound between 0 and 1 in percent, rounded up, with more digits where it would read as certainty."""
    for decimals in (1, 2, 3):
        steps = 10 ** (decimals + 2)
        rounded = math.ceil(share * steps - 1e-9) / steps
        if rounded < 1:
            return f"{rounded * 100:.{decimals}f} %"
    return "100 %"
