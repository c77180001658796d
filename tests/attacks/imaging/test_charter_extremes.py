"""A hostile coordinator's charter: every key of a task at its edge, and what one patient may move under it."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from client.training.patient_dp import Clipping
from shared.charter import Charter
from shared.errors import CharterError
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Batch, get_task
from tests.attacks.imaging.command import fedward, refusal
from tests.attacks.privacy.test_every_network import CLIP, EDGE, EVERY, HOSTILE, accumulate, awake, optimizer_for, small
from tests.client.training.toys import people

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what hostile images make of a threshold
TEXT = """
[federation]
id = "demo"
purpose = "image enhancement research"
[[task]]
name = "denoise"
rounds = 3
local_steps = 1
"""
EXTREME = {
    "zoom": 1.0,
    "rotation": 45.0,
    "input_noise": 1.0,
    "foreground": 1.0,
    "dropout": 0.9,
    "adversarial": 0.1,
    "weight_decay": 10.0,
}
MASKED = """
[secure_aggregation]
threshold = 3
""" + "".join(f'[[member]]\nname = "H{n}"\nidentity = "{str(n) * 64}"\n' for n in (1, 2, 3))
SHARED = MASKED + '[privacy]\nmode = "distributed"\npatients = 90\n'


@pytest.mark.parametrize("which", EVERY, ids="-".join)
def test_with_every_key_at_its_edge_one_patient_moves_the_sum_by_at_most_the_bound(
    which: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FGSM too, which test_every_network leaves out: its step is taken on the patient's own loss alone."""
    task, network = get_task(which[0]), None
    draw = task.draw

    def repeatable(patient: PatientImages, count: int, _: np.random.Generator) -> Batch:
        return small(draw(patient, count, np.random.default_rng(list(patient.key.encode()))))

    monkeypatch.setattr(task, "draw", repeatable)
    network = awake(task.network(1, which[1]))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    (one,) = people(1, slices=3, size=4 * EDGE)
    plain = one.studies[0]
    for clipping in Clipping:
        optimizer = optimizer_for(network, clipping)
        for name, change in HOSTILE.items() if clipping is Clipping.FLAT else [("like the others", lambda x: x)]:
            loud = replace(plain, noisy=change(plain.noisy), reference=change(plain.reference))
            added = accumulate(task, network, [replace(one, studies=(loud,))], (0,), optimizer, craft=EXTREME).tolist()
            length = Fraction(sum(value * value for value in added)) * Fraction(optimizer.unit) ** 2
            assert length <= Fraction(CLIP) ** 2, name
            assert any(added) or name != "like the others"
    after = dict(network.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())  # an attack on images moves no weight


@pytest.mark.parametrize(
    "line",
    [
        *(f"{key} = {value}" for key in EXTREME for value in ("nan", "inf", "-1", "true", '"x"', "1e400", "[0.1]")),
        *(f"{key} = 0" for key in EXTREME if key != "weight_decay"),
        "dropout = 0.91",
        "zoom = 1.01",
        "rotation = 45.1",
        "input_noise = 1.01",
        "foreground = 1.01",
        "adversarial = 0.11",
        "weight_decay = 10.1",
        "average = 1.0",
        "average = nan",
        'network = "../x"',
        'network = ""',
        "network = 7",
        'start = "public-2"',
        'start = "release"',
        f'release = "{"a" * 64}"',
        f'start = "release"\nrelease = "{"A" * 64}"',
        f'start = "release"\nrelease = "../{"a" * 61}"',
        f'start = "public-1"\nrelease = "{"a" * 64}"',
        'trained = "none"',
        'precision = "float16"',
        "local_lr = 0",
        "proximal = nan",
        "batch = 5000",
    ],
)
def test_a_value_at_which_nothing_would_hold_is_no_charter(line: str) -> None:
    with pytest.raises(CharterError) as caught:
        Charter.parse(f"{TEXT}{line}\n")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("line", ["weight_decay = 0.1", "proximal = 0.1", 'local_optimizer = "Adam"'])
def test_what_would_move_weights_without_noise_is_no_charter_of_shared_noise(line: str) -> None:
    Charter.parse(TEXT + SHARED)
    with pytest.raises(CharterError):
        Charter.parse(f"{TEXT}{line}\n{SHARED}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("", 'network = "resnet"\n'), "resnet"),
        (("denoise", "segment"), "dncnn"),
        (("denoise", "superres4"), "public-1"),
        (("denoise", "masked"), "public-1"),
        (("", 'network = "dncnn"\nstart = "public-1"\n'), "dncnn"),
        (("denoise", "denoize"), "denoize"),
    ],
)
def test_a_task_network_or_start_that_there_is_none_of_is_found_by_the_check(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    """Every hospital pins what the check read out; the first round is late to learn that nothing can be trained."""
    old, new = change
    more = {"resnet": "", "dncnn": "" if not old else 'network = "dncnn"\n', "public-1": 'start = "public-1"\n'}
    text = (TEXT.replace(old, new) if old else TEXT + new) + more.get(words, "")
    (tmp_path / "charter.toml").write_text(text)
    assert words in refusal(fedward("charter", "check", tmp_path / "charter.toml"), 2)
