"""What ``--help`` says of the arguments of a command."""

import re
from collections.abc import Iterator

import click
import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from client.cli import app
from client.data_cli import app as data


def commands(group: click.Command, *names: str) -> Iterator[list[str]]:
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, *names, name)
    else:
        yield list(names)


ALL = [(app, " ".join(names)) for names in commands(get_command(app))]
ALL += [(data, " ".join(names)) for names in commands(get_command(data))]


def squeezed(text: str) -> str:
    return re.sub(r"[\s\u2502]+", " ", text)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("deidentify", ["Folder of DICOM files; read recursively.", "Folder for released files, under pseudonymous"]),
        ("ingest", ["The node's folder, from 'fedward node init'."]),
        ("review", ["The folder with deid.json and quarantine/.", "The folder of released files; cleared ones go"]),
        ("profile show", ["basic, safe-harbor, research, or a TOML file."]),
        ("expert sign", ["JSON: expert, scope, profile_sha256, expires.", "Where the signed determination goes."]),
    ],
)
def test_each_argument_is_explained(command: str, words: list[str]) -> None:
    told = squeezed(CliRunner().invoke(app, [*command.split(), "--help"]).output)
    for one in words:
        assert one in told


@pytest.mark.parametrize(("group", "command"), ALL)
def test_no_argument_is_without_help(group: typer.Typer, command: str) -> None:
    found: click.Command = get_command(group)
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.commands[name]
    arguments = [parameter for parameter in found.params if isinstance(parameter, click.Argument)]
    assert all(getattr(argument, "help", "") for argument in arguments)
