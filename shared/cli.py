"""The ``fedward`` command: it mounts the groups of those rooms that are installed."""

import os
import sys
import warnings
from importlib.metadata import entry_points

import click
import typer

from shared.console import complain
from shared.errors import FedwardError, OutputError
from shared.processes import end_pools

# Nothing that a hospital starts may speak to anyone but the coordinator it chose.
for _name, _value in (("FLWR_TELEMETRY_ENABLED", "0"), ("FLWR_DISABLE_UPDATE_CHECK", "1")):
    os.environ.setdefault(_name, _value)

INTERRUPTED = 130
ROOMS = ("shared", "client", "server", "compliance", "simulation")


def build() -> typer.Typer:
    """The command with every installed group (entry points ``fedward.commands``)."""
    app = typer.Typer(
        name="fedward",
        help="Federated learning on medical images: no image, header or identifier leaves a hospital.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        epilog="Exit codes: 0 done, 2 wrong use, 3 some files quarantined or refused, 4 no usable input, "
        "5 output cannot be written, 6 forbidden by policy, 7 privacy budget, 8 the other end failed, "
        "9 the record failed, 130 interrupted.",
    )
    groups: dict[str, typer.Typer] = {}

    def within(name: str) -> typer.Typer:
        """The group ``name``; an empty one where the room that has it is not installed."""
        if name not in groups:
            groups[name] = typer.Typer(no_args_is_help=True)
            groups[name].callback()(lambda: None)
            app.add_typer(groups[name], name=name)
        return groups[name]

    for point in sorted(entry_points(group="fedward.commands"), key=lambda entry: entry.name):
        try:
            group = point.load()
        except ModuleNotFoundError as error:
            if error.name and "." in error.name and error.name.split(".")[0] in ROOMS:
                raise  # a module of ours is missing: a fault, not another installation
            continue  # installed without that room, or without what only that room needs
        outer, _, name = point.name.rpartition(".")
        if isinstance(group, typer.Typer):
            app.add_typer(group, name=name)
            groups[name] = group
        elif outer:
            within(outer).command(name=name)(group)
        else:
            app.command(name=name)(group)
    return app


def main() -> None:
    """Run the command; an error becomes one line on standard error and a documented exit code."""
    _hush_libraries()
    try:
        app = build()
    except KeyboardInterrupt:  # while the rooms are imported, which takes seconds on a busy machine
        complain("interrupted before anything was begun")
        sys.exit(INTERRUPTED)
    sys.exit(_run(app))


def _hush_libraries() -> None:
    """What libraries warn programmers of helps nobody at a terminal, and those for DICOM quote values of headers."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for processes that are started from here


def _run(app: typer.Typer) -> int:
    """Call ``app`` with the arguments of this process and return the exit code."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "fedward"
        complain(error.format_message().rstrip("."), f"see '{command} --help'")
        return error.exit_code
    except FedwardError as error:
        complain(error.message, error.hint)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as error:
        complain(f"{error.filename or 'a file'}: {error.strerror or error}", "check the path, permissions and the disk")
        return OutputError.exit_code
    if code == INTERRUPTED:  # typer makes this of an interrupt from the keyboard
        end_pools()
        complain("interrupted; what was finished is kept, run the same command again to go on")
    return code if isinstance(code, int) else 0
