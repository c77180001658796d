"""Which runs a hospital takes part in: one app, one kind, one configuration, one charter."""

import hashlib
from typing import Any

import pytest

from client.run_check import SERVER_APP, check_run
from shared.bundle import build
from tests.federation import members as fed
from tests.federation import toy

RULES = toy.charter()
APP = build("1.0", {"shared/a.py": b"a"})
CONFIG = {"federation": RULES.id, "charter": RULES.sha256, "run": "run-20261123-070000-abcd"}


def check(fab: bytes = APP, kind: str = SERVER_APP, config: Any = None, rules: Any = RULES) -> str:
    return check_run(fab, kind, CONFIG if config is None else config, rules, APP)


def test_a_run_of_the_pinned_charter_with_the_installed_release_is_not_refused() -> None:
    assert check() == ""


@pytest.mark.parametrize(
    "kind", ["flwr-agentapp", "flwr-simulation", "flwr-model", "flwr-connector", "", "FLWR-SERVERAPP"]
)
def test_agents_and_everything_else_that_is_no_server_app_are_refused(kind: str) -> None:
    assert "no server app" in check(kind=kind)


@pytest.mark.control("GDPR-32-own-code")
@pytest.mark.parametrize("fab", [b"", APP + b"\n", APP[:-1], build("1.0", {"shared/a.py": b"b"}), build("1.1", {})])
def test_any_other_app_is_refused_and_both_are_named(fab: bytes) -> None:
    reason = check(fab=fab)
    assert hashlib.sha256(fab).hexdigest()[:16] in reason
    assert hashlib.sha256(APP).hexdigest()[:16] in reason


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"charter": "0" * 64}, "another charter"),
        ({"charter": RULES.sha256.upper()}, "another charter"),
        ({"charter": None}, "another charter"),
        ({"federation": "other"}, "another charter"),
        ({"federation": 1}, "another charter"),
        ({"run": ""}, "no name"),
        ({"run": "../../etc"}, "no name"),
        ({"run": "x" * 65}, "no name"),
        ({"run": 7}, "no name"),
        ({"run": "a\n"}, "no name"),
        ({"epsilon": 100.0}, "nothing else"),
        ({"node-dir": "/"}, "nothing else"),
    ],
)
def test_a_configuration_that_says_anything_else_is_refused(changes: dict[str, Any], why: str) -> None:
    assert why in check(config=CONFIG | changes)


@pytest.mark.parametrize("missing", sorted(CONFIG))
def test_a_configuration_that_says_less_is_refused(missing: str) -> None:
    assert "nothing else" in check(config={key: value for key, value in CONFIG.items() if key != missing})


def test_a_charter_that_lists_releases_is_held_to_them() -> None:
    digest = hashlib.sha256(APP).hexdigest()
    for apps, refused in [((), False), ((digest,), False), (("0" * 64,), True), (("0" * 64, digest), False)]:
        rules = fed.masked(fed.invented(3), 3, {"apps": apps})
        config = CONFIG | {"charter": rules.sha256, "federation": rules.id}
        assert bool(check(config=config, rules=rules)) is refused
