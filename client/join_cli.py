"""``fedward node request``, ``fingerprint`` and ``join``: how a hospital enters a federation."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console
from shared.errors import UsageError

if TYPE_CHECKING:
    from client.join import Joining

_NODE = "The node's folder, from 'fedward node init'."


def mount(app: typer.Typer) -> None:
    """Add the commands to the node's group."""
    app.command("request")(request_command)
    app.command("fingerprint")(fingerprint_command)
    app.command("join")(join_command)


def request_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the request goes (JSON); nothing in it is secret.")],
) -> None:
    """Write a request for membership to OUT, signed with the node's key, and print the fingerprint to read out.

    Send OUT to the coordinator. Do not send the fingerprint with it: read it out when the coordinator calls you, or
    call under a number that you knew before. Who could exchange the file on its way could exchange both.

    Exit status 0: written. 2: no node, OUT is there already, or the purpose cannot stand in a charter. 5: OUT cannot be
    written. 6: a virtual hospital, or a key that others may read. 9: the audit log cannot be written.
    """
    from client.join import request
    from client.node import Node

    if out.exists():  # whatever it is, such as a key
        raise UsageError(f"{out} is there already", hint="choose another name, such as request.json")
    made = request(Node.open(node), out)
    console.say(f"{out}: {made.site} asks to be a member, for '{made.purpose}'; send it to the coordinator")
    console.say(f"read out when asked: {made.fingerprint}")


def fingerprint_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the fingerprint of the node's key, to be read out by telephone.

    It is the first half of the SHA-256 of the public key, in 8 groups of 4 hexadecimal digits.

    Exit status 0: printed. 2: no node, or its key is missing or damaged. 6: others may read the key.
    """
    from client.join import own_fingerprint
    from client.node import Node

    opened = Node.open(node)
    if as_json:
        public = opened.identity.public_key().public_bytes_raw().hex()
        console.emit_json({"site": opened.site, "identity": public, "fingerprint": own_fingerprint(opened)})
    else:
        console.say(f"{opened.site}: {own_fingerprint(opened)}")


def join_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    charter: Annotated[Path, typer.Argument(metavar="CHARTER", help="The charter (TOML), from the coordinator.")],
    *,
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="SITE.pem", help="This hospital's certificate, from the coordinator that CHARTER names."),
    ] = None,
    sha256: Annotated[
        str,
        typer.Option(metavar="HEX", help="The charter's SHA-256 as another member read it out: 32 digits or more."),
    ] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Replace another charter that is pinned.")] = False,
) -> None:
    """Show what CHARTER means for this hospital, and pin it once a person has compared it with the other members.

    The charter must have the node's purpose and name the node with its own key. Compare its SHA-256 (at least the first
    32 digits) and the fingerprints of the members by telephone. Then give the digits with --sha256, or at the
    terminal when asked. From then on the node follows this charter and no message can change it.

    Where CHARTER names a coordinator, the certificate that it sent is needed as well. It must be for this node's own
    key and of the authority that CHARTER names. With the charter that is pinned already it replaces the one before.

    Exit status 0: pinned. 2: no node, no charter, no certificate, or nothing that confirms it. 5: the pin cannot be
    written. 6: the charter or the certificate is not for this node, the charter is not the one that the others hold or
    lists other releases than the one that is installed, another one is pinned, or others may read a key. 8: the
    certificate was not issued by its authority, or its time is over. 9: the audit log cannot be written.
    """
    from client.certificate import LinkCertificate
    from client.join import Joining
    from client.node import Node
    from shared.charter import Charter
    from shared.charter_words import explain, lines

    found = Charter.load(charter)
    shown = LinkCertificate.read(certificate) if certificate else None
    joining = Joining.prepare(Node.open(node), found, replace=replace, certificate=shown)
    if sha256:
        joining.confirm(sha256)
    for line in lines(explain(found, site=joining.node.site)):
        console.say(line)
    if joining.already:
        joining.keep()
        _say_until(joining)
        console.say(f"{joining.node.site} has pinned this charter already")
        return
    if not sha256:
        _ask(joining)
    joining.pin(confirmed="sha256" if sha256 else "at the terminal")
    _say_until(joining)
    console.say(f"{joining.node.site} has pinned the charter of {found.id}; it follows no other from now on")


def _say_until(joining: "Joining") -> None:
    if joining.certificate is not None:
        console.say(f"{joining.node.certificate}: holds until {joining.certificate.until:%Y-%m-%d}")


def _ask(joining: "Joining") -> None:
    """Ask a person at the terminal whether the members agree."""
    if not sys.stdin.isatty():
        raise UsageError(
            "nothing confirms that the other members hold the same charter",
            hint="compare its SHA-256 with them by telephone and give it with --sha256",
        )
    typer.echo()
    console.say("call other members: the fingerprint of each must be the one above")
    question = "SHA-256 of the charter, as another member reads it out (32 digits or more)"
    joining.confirm(typer.prompt(question, default="", show_default=False))
