"""The commands of `ecg-monitor`. Whatever is heavy is imported by the command that needs it."""

from typing import NoReturn

import typer

from monitor import __version__, program

app = typer.Typer(
    name="ecg-monitor",
    help="Scores heartbeats that arrive over MQTT and raises alarms. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Scores heartbeats that arrive over MQTT and raises alarms. Not a medical device."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Run `ecg-monitor`."""
    program.run(app)
