"""The ports that the tests' servers get."""

import itertools

import pytest

from tests.ports import PARTS, free_port, ours


@pytest.mark.parametrize(("low", "high"), [(32768, 60999), (10_000, 50_001), (1024, 65535), (32768, 65535)])
def test_no_two_processes_of_one_run_get_the_same_port_or_its_neighbour(low: int, high: int) -> None:
    taken = [port + more for part in range(PARTS) for port in ours(low, high, part) for more in (0, 1)]
    assert len(set(taken)) == len(taken) >= 1000
    assert max(taken) <= 65535


@pytest.mark.parametrize(("low", "high"), [(32768, 60999), (10_000, 50_001)])
def test_no_connection_begins_at_one_of_them(low: int, high: int) -> None:
    assert not {port for part in range(PARTS) for port in ours(low, high, part)} & set(range(low, high + 1))


def test_one_is_not_given_out_again_soon() -> None:
    given = list(itertools.islice(iter(free_port, 0), 100))
    assert len(set(given)) == 100
