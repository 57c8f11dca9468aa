"""The commands of `ecg-monitor`. Whatever is heavy is imported by the command that needs it."""

from pathlib import Path
from typing import Annotated, NoReturn

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


Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A TOML file with settings.")
]
Broker = Annotated[
    str | None, typer.Option("--broker", metavar="URL", help="mqtt[s]://HOST:PORT of the broker.")
]


@app.command()
def run(
    config: Config = None,
    broker: Broker = None,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="The model file that scores.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings as a TOML file and exit.")
    ] = False,
) -> None:
    """Run the daemon: score the beats that arrive, publish alerts, serve metrics."""
    from monitor import settings

    chosen = settings.load(config, settings.flags(broker=broker, model=model))
    if print_config:
        typer.echo(settings.to_toml(chosen), nl=False)
        return
    from monitor import daemon, logs

    logs.set_up()
    daemon.run(chosen)


def main() -> NoReturn:
    """Run `ecg-monitor`."""
    program.run(app)
