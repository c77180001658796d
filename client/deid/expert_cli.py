"""``fedward node expert``: what the expert does who determines that a profile's risk is very small."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console

if TYPE_CHECKING:
    from client.deid.determination import Determination

app = typer.Typer(help="Sign an expert determination (45 CFR 164.514(b)(1)), or look at one.", no_args_is_help=True)


@app.command()
def key(file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the new key goes (0600).")]) -> None:
    """Make an expert's signing key; its fingerprint is what a hospital compares with the expert."""
    from client.deid.determination import make_key

    fingerprint = make_key(file)
    console.say(f"{file} is the expert's key (0600; keep it secret)")
    console.say(f"fingerprint: {fingerprint}")


@app.command()
def sign(
    draft: Annotated[Path, typer.Argument(metavar="DRAFT", help="JSON: expert, scope, profile_sha256, expires.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the signed determination goes.")],
    *,
    key: Annotated[Path, typer.Option(help="The expert's key, from 'fedward node expert key'.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
) -> None:
    """Sign a determination; 'fedward node profile show' prints the digest of the profile that it is for."""
    from client.deid.determination import sign as sign_draft

    made = sign_draft(draft, key, out, overwrite=overwrite)
    console.say(f"{out}: {made.expert} for profile {made.profile_sha256}, {_until(made)}")
    console.say(f"fingerprint: {made.fingerprint}")


@app.command()
def show(file: Annotated[Path, typer.Argument(metavar="FILE", help="A signed determination.")]) -> None:
    """Check the signature of a determination and say what it is, and whether it has expired."""
    from client.deid.determination import read_determination

    found = read_determination(file)
    console.say(f"{found.expert}: {found.scope}")
    console.say(f"for profile {found.profile_sha256}, {_until(found)}")
    console.say(f"signed by the key with fingerprint {found.fingerprint}")


def _until(found: "Determination") -> str:
    """Until when it holds, or that it holds no more; it holds from the day on which it is signed."""
    last = found.expires.isoformat()
    return (
        f"EXPIRED on {last}: no profile is used under it; have the expert renew it"
        if found.expired()
        else f"until {last}"
    )
