"""The coordinator's audit log as the hospitals see it; what is common to all parties is :mod:`compliance.party`."""

from collections.abc import Iterable, Mapping

from cryptography.hazmat.primitives.asymmetric import ec

from compliance import shown
from compliance.endorse import Endorsement, Vouched, coordinator_origin, site_origin, vouched_by
from compliance.exchange import Correspondent
from compliance.place import Place
from server.coordinator import Coordinator
from shared.certificates import digest, read


def published(coordinator: Coordinator) -> str:
    """A checkpoint of its log as it is now, for a round that begins.

    Raises:
        RecordError: The log was altered or cannot be read.
        FedwardError: The log key cannot be used.
    """
    return shown.published(Place.open(coordinator.folder))


def correspondent(coordinator: Coordinator) -> Correspondent:
    """Its own side of the audit exchange.

    Raises:
        FedwardError: A key or a certificate is missing or damaged.
    """
    return shown.correspondent(Place.open(coordinator.folder), lambda found: vouched_here(coordinator, found))


def vouched_here(coordinator: Coordinator, endorsements: Iterable[Endorsement]) -> Vouched:
    """The log keys that the hospitals which were approved here, and the authority, vouch for; others are left out.

    Raises:
        FedwardError: A member's request was altered.
    """
    identities = {one.site: one.public_key for one in coordinator.members()}
    (certificate,) = read(coordinator.authority_path, count=1)
    public = certificate.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101  # no other kind was ever made
    above = coordinator_origin(coordinator.name, digest(certificate))
    return vouched_by(identities, endorsements, above, lambda: public, strict=False)


def origins(coordinator: Coordinator) -> Mapping[str, str]:
    """The origin of each party's log by its name.

    Raises:
        FedwardError: A member's request or the authority's certificate was altered.
    """
    (certificate,) = read(coordinator.authority_path, count=1)
    found = {one.site: site_origin(one.site, one.public_key) for one in coordinator.members()}
    return found | {coordinator.name: coordinator_origin(coordinator.name, digest(certificate))}
