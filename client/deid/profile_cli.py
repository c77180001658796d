"""``fedward node profile``: what a profile does, before it is used."""

from typing import Annotated

import typer

from shared import console

app = typer.Typer(help="What a profile of de-identification does.", no_args_is_help=True)


@app.command()
def show(
    profile: Annotated[str, typer.Argument(help="basic, safe-harbor, research, or a TOML file.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Explain a profile in plain words."""
    from client.deid.explain import explain

    told = explain(profile)
    if as_json:
        console.emit_json(told)
        return
    for name, value in told.items():
        _say(name, value)


@app.command()
def check(file: Annotated[str, typer.Argument(help="A hospital's own profile (TOML).")]) -> None:
    """Say whether a hospital's own profile is understood, its digest, and what it sets for itself."""
    from client.deid.explain import explain

    told = explain(file)
    expert = "needs" if told["needs_expert_determination"] else "needs no"
    console.say(f"{file} is a profile; it {expert} expert determination; sha256 {told['sha256']}")
    for name in ("options", "pixels", "experts", "overrides"):
        _say(name, told[name])


def _say(name: str, value: object) -> None:
    label = name.replace("_", " ")
    if isinstance(value, dict) and value:
        console.say(f"{label}:")
        for inner, what in value.items():
            console.say(f"  {inner}: {what}")
    else:
        text = ", ".join(value) or "none" if isinstance(value, list | dict) else value
        console.say(f"{label}: {text}")
