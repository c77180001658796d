"""Virtual hospitals as witnesses of each other's audit logs, with the real relay and the real turns, in one process."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from client.node import Node
from compliance.endorse import Endorsement, Vouched, site_origin, vouched_by
from compliance.exchange import Correspondent, Relay
from compliance.place import Place
from compliance.shown import correspondent
from compliance.trail import Trail
from compliance.verify import cosigners
from shared.errors import RecordError

TURNS: Final = 5
"""After which every hospital has the cosignatures of all others, whoever was first."""


def witness(nodes: Mapping[str, Path]) -> dict[str, int]:
    """Have every hospital publish its log and all others cosign it.

    Args:
        nodes: Folder by site; with fewer than two there is nobody to ask.

    Returns:
        How many others have cosigned each log, as it is now.

    Raises:
        RecordError: A log was altered, or another hospital did not take it for one that goes on.
    """
    identities = _identities(nodes)
    origins = {site: site_origin(site, identity) for site, identity in identities.items()}
    places = {site: Place.open(folder) for site, folder in nodes.items()}
    vouch = vouched_among(nodes)
    sides = {site: correspondent(place, vouch) for site, place in places.items()}
    trails = {site: place.trail for site, place in places.items()}
    for trail in trails.values():
        trail.checkpoint()
    _turns(sides, Relay(lambda: origins))
    return {site: _cosigned(trails[site], sides[site].vouched()) for site in nodes}


def vouched_among(nodes: Mapping[str, Path]) -> Callable[[Iterable[Endorsement]], Vouched]:
    """What tells which log keys the virtual hospitals vouch for, whatever charter they have.

    Args:
        nodes: Folder by site.
    """
    return partial(vouched_by, _identities(nodes), strict=False)


def _identities(nodes: Mapping[str, Path]) -> dict[str, bytes]:
    return {site: Node.open(folder).identity.public_key().public_bytes_raw() for site, folder in nodes.items()}


def _turns(sides: Mapping[str, Correspondent], relay: Relay) -> None:
    for _ in range(TURNS):
        problems: list[str] = []
        for site, side in sides.items():
            asked = side.offer()
            problems += side.take(asked, relay.turn(site, asked)).problems
        if problems:
            raise RecordError(problems[0], hint="keep the folder of the run as evidence, and begin another one")


def _cosigned(trail: Trail, keys: Vouched) -> int:
    newest = trail.newest()
    if newest is None or len(keys.sites) < 2:
        return 0
    return len(cosigners(newest.note, keys.sites))
