"""``fedward server init``: make a coordinator's folder."""

from pathlib import Path
from typing import Annotated

import typer

from shared.console import say


def mount(app: typer.Typer) -> None:
    """Add the command to the coordinator's group."""
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder; made with mode 0700.")],
    *,
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="What the hospitals connect to.")],
    name: Annotated[
        str | None, typer.Option(help="The coordinator's name, as it stands in the charter. Default: coordinator.")
    ] = None,
    country: Annotated[
        str | None, typer.Option(metavar="CC", help="Where it is: a code of ISO 3166-1 alpha-2, such as DE.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A further name or IP address of the gate; may be given several times."),
    ] = None,
) -> None:
    """Make a coordinator: its keys, the authority of its federation, and the certificate of its gate.

    The authority signs the certificates of the gate (2 years) and of the hospitals (2 years); its own holds for 10. Run
    it again to renew the certificate of the gate, or to add names to it: keys and the authority stay, and so do the
    names that it has. A coordinator that moves to another address needs a new charter. Everything in DIR/keys is
    secret; a copy of DIR is a backup.

    Exit status 0: made, or renewed. 2: a value is wrong, DIR is another coordinator's, or a key of it is damaged. 5:
    DIR cannot be written. 6: others may read a key, or the authority's time is over.
    """
    from server.authority import authority_of, establish
    from shared.certificates import digest, hosts_of, read
    from shared.identity import grouped

    made = establish(folder, address=address, name=name, country=country, also=also or ())
    authority = authority_of(made).certificate
    (gate,) = read(made.gate_path, count=1)
    say(f"{folder}: the coordinator {made.name}, at {made.address}" + (f", in {made.country}" if made.country else ""))
    say(f"authority until {authority.not_valid_after_utc:%Y-%m-%d}, SHA-256 {grouped(digest(authority))}")
    say(f"gate until {gate.not_valid_after_utc:%Y-%m-%d}, for {', '.join(hosts_of(gate))}")
    say(f"take hospitals in: fedward server approve CHARTER REQUEST... --fingerprint ... --server {folder}")
