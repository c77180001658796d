"""Where networks run: what the hospital chose, or nothing at all. GPUs are pretended here; none was there."""

from types import SimpleNamespace

import pytest
import torch

from client.policy_file import DevicePlan
from client.training.device import DeviceError, computing, describe, device


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    about = SimpleNamespace(name="Pretend 9000", total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)


@pytest.mark.parametrize(
    ("use", "virtual", "kind"),
    [("auto", False, "cuda"), ("auto", True, "cpu"), ("cpu", False, "cpu"), ("cuda:1", False, "cuda:1")],
)
@pytest.mark.usefixtures("two_gpus")
def test_the_hospitals_choice_holds(use: str, virtual: bool, kind: str) -> None:
    assert str(device(DevicePlan(use), virtual=virtual)) == kind


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_no_reason_to_take_another() -> None:
    with pytest.raises(DeviceError, match="cuda:2"):
        device(DevicePlan("cuda:2"), virtual=False)


def test_without_a_gpu_one_that_is_named_is_an_error_and_auto_is_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device(virtual=False).type == "cpu"
    with pytest.raises(DeviceError, match="no such GPU"):
        describe(DevicePlan("cuda"))


@pytest.mark.usefixtures("two_gpus")
def test_one_line_says_what_is_used() -> None:
    said = describe(DevicePlan("cuda:1", deterministic=True))
    assert said == f"GPU 1: Pretend 9000, 24.0 GiB, torch {torch.__version__}, deterministic"
    assert describe(DevicePlan("cpu")).startswith("CPU, ")
    assert "\n" not in said + describe()


def test_deterministic_holds_within_the_block_and_not_after_it() -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with computing(DevicePlan(deterministic=True)):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before
    with computing(DevicePlan()):
        assert torch.are_deterministic_algorithms_enabled() is before[0]
