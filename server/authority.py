"""The coordinator's authority: it makes the certificates of the gate and of the hospitals that were approved."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from server.coordinator import Coordinator
from shared.certificates import Authority, check_authority, digest, hosts_of, pem, read
from shared.charter import CoordinatorPlan
from shared.errors import UsageError
from shared.files import write_bytes
from shared.identity import Request
from shared.link_keys import make_key, public_key, read_key
from shared.places import Address, sound_host

DEFAULT_NAME: Final = "coordinator"


def establish(
    folder: Path, *, address: str, name: str | None = None, country: str | None = None, also: Sequence[str] = ()
) -> Coordinator:
    """Make a coordinator's folder with its keys and certificates, or renew the gate's certificate of one.

    The authority and its key stay once they are made: the charter has the digest of its certificate.

    Args:
        folder: Made with mode 0700 where missing.
        address: ``host:port`` that hospitals connect to.
        name: The coordinator's; where None, that of the folder, or :data:`DEFAULT_NAME`.
        country: Where it is, ISO 3166-1 alpha-2; where None, what the folder says.
        also: Further names and addresses of the gate; those that it had before stay.

    Raises:
        UsageError: A value cannot stand in a charter, the folder is another coordinator's, or a key is damaged or lost.
        PolicyError: Others than its owner may read a key, or the authority's own time is over.
        OutputError: Something cannot be written.
    """
    if (folder / "coordinator.json").exists():
        there = Coordinator.open(folder)
        name, country = name or there.name, country or there.country
    try:
        hosts = [Address.parse(address).host, *map(sound_host, also)]
    except ValueError as error:
        raise UsageError(f"the address of a gate {error}", hint="see 'fedward server init --help'") from error
    made = Coordinator.create(folder, name=name or DEFAULT_NAME, address=address, country=country)
    if not made.authority_key_path.exists() and not made.authority_path.exists():
        make_key(made.authority_key_path)
    if not made.authority_path.exists():
        _found(made)
    if not made.gate_key_path.exists():
        make_key(made.gate_key_path)
    if made.gate_path.exists():
        hosts += hosts_of(read(made.gate_path, count=1)[0])
    gate = read_key(made.gate_key_path).public_key()
    certificate = authority_of(made).server(gate, made.name, list(dict.fromkeys(hosts)))
    write_bytes(made.gate_path, pem(certificate), durable=True)
    return made


def authority_of(coordinator: Coordinator) -> Authority:
    """The authority, ready to sign.

    Raises:
        UsageError: Its key or its certificate is missing or damaged, or they do not belong together.
        PolicyError: Others than its owner may read its key.
    """
    (certificate,) = read(coordinator.authority_path, count=1)
    return Authority(certificate, read_key(coordinator.authority_key_path))


def plan_of(coordinator: Coordinator) -> CoordinatorPlan:
    """What a charter says of this coordinator.

    Raises:
        UsageError: The authority's certificate is missing or damaged.
        ProtocolError: Its time is over.
    """
    (certificate,) = read(coordinator.authority_path, count=1)
    check_authority(certificate)
    return CoordinatorPlan(coordinator.name, coordinator.address, digest(certificate), coordinator.country)


def check_admissible(coordinator: Coordinator, asking: Iterable[Request]) -> None:
    """Refuse requests that would take another hospital's place at the gate.

    A hospital may have a new key for its link. It is admitted under its name and its identity alone.

    Raises:
        UsageError: The name stands for another identity, or the link's key is another hospital's.
        ProtocolError: The request of one that was approved earlier has been altered.
    """
    known = {one.site.casefold(): one for one in coordinator.members()}
    for request in asking:
        there = known.get(request.site.casefold())
        if there is not None and (there.site, there.public_key) != (request.site, request.public_key):
            raise UsageError(
                f"{coordinator.folder} has admitted {there.site} with another key than this {request.site}",
                hint=f"if the hospital made a new one, remove {coordinator.members_folder / there.site}.json first",
            )
        known[request.site.casefold()] = request
    holders: dict[bytes, str] = {}
    for one in known.values():
        if holders.setdefault(one.link_key, one.site) != one.site:
            raise UsageError(
                f"the key of the link of {one.site} is also that of {holders[one.link_key]}",
                hint="every hospital makes a node of its own; leave this request out",
            )


def admit(coordinator: Coordinator, request: Request) -> tuple[Path, x509.Certificate]:
    """Let an approved hospital through the gate: issue its certificate, and keep its request.

    Args:
        coordinator: Whose gate.
        request: As :func:`check_admissible` passed it.

    Returns:
        The file to send to the hospital, and the certificate in it.

    Raises:
        UsageError: The authority's key or certificate is missing or damaged.
        PolicyError: Others may read the authority's key, or its time is over.
        OutputError: Something cannot be written.
    """
    authority = authority_of(coordinator)
    certificate = authority.client(public_key(request.link_key), request.site)
    path = coordinator.certificates_folder / f"{request.site}.pem"
    write_bytes(path, pem(certificate, authority.certificate), durable=True)
    request.write(coordinator.members_folder / f"{request.site}.json")
    return path, certificate


def _found(coordinator: Coordinator) -> None:
    """Make the authority's certificate, unless hospitals hold one that this key signed."""
    issued = sorted(coordinator.certificates_folder.glob("*.pem"))
    if issued:
        raise UsageError(
            f"{coordinator.authority_path} is lost, and charters have its digest",
            hint=f"restore it from a copy: it is the second certificate of {issued[0]}",
        )
    authority = Authority.make(read_key(coordinator.authority_key_path), coordinator.name)
    write_bytes(coordinator.authority_path, pem(authority.certificate), durable=True)
