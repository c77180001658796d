"""Whether this hospital takes part in a run: the app, its configuration, the pinned charter, its own policy."""

import hashlib
from collections.abc import Mapping
from typing import Final

from shared.bundle import RUN_CONFIG
from shared.charter import Charter
from shared.header import NAME

SERVER_APP: Final = "flwr-serverapp"
"""What a run of a federation is in Flower's words. There are others, such as agents, which nobody agreed on."""


def check_run(
    fab: bytes, primary_task_type: str, run_config: Mapping[str, object], charter: Charter, expected_bundle: bytes
) -> str:
    """Why a run is refused, in one line for the coordinator; empty where it is not.

    Args:
        fab: The app bundle that the coordinator sent.
        primary_task_type: What runs at the coordinator, in Flower's words.
        run_config: The run's configuration.
        charter: The charter that this hospital pinned.
        expected_bundle: The bundle of the release that is installed here.
    """
    if primary_task_type != SERVER_APP:
        return "this run is not of the kind that federations have: it has an agent, or no server app"
    if fab != expected_bundle:
        return (
            f"the run's app ({hashlib.sha256(fab).hexdigest()[:16]}) is not the release that is installed here "
            f"({hashlib.sha256(expected_bundle).hexdigest()[:16]})"
        )
    apps = () if charter.masking is None else charter.masking.apps
    if apps and hashlib.sha256(fab).hexdigest() not in apps:
        return "the run's app is not among those of the charter that is pinned here"
    if set(run_config) != set(RUN_CONFIG):
        return f"the run's configuration must have {', '.join(RUN_CONFIG)} and nothing else"
    if run_config["charter"] != charter.sha256 or run_config["federation"] != charter.id:
        return "the run is of another charter than the one that is pinned here"
    if not (isinstance(run := run_config["run"], str) and NAME.fullmatch(run)):
        return "the run has no name"
    return ""
