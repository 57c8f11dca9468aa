"""The commands of `ecg-monitor`. Whatever is heavy is imported by the command that needs it."""

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from monitor import __version__, terminal

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
    from monitor import settings, settings_toml

    chosen = settings.load(config, settings.flags(broker=broker, model=model))
    if print_config:
        typer.echo(settings_toml.to_toml(chosen), nl=False)
        return
    from monitor import logs
    from monitor.daemon import loop

    logs.set_up()
    loop.run(chosen)


@app.command()
def batch(
    name: Annotated[str, typer.Argument(help="One of basic, denoise, undercomplete, vae and ecg.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The folder of the data sets; for ecg also a .csv or .parquet of beats."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A model file instead of the one that is shipped.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to.", show_default="out/batch/NAME")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Reproduce an image example from its model file, or score a whole file of beats."""
    from monitor.commands import batch

    batch.main(name, data, model, out or Path("out", "batch", name), as_json)


@app.command()
def model(
    file: Annotated[Path | None, typer.Argument(help="A model file; else the shipped one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Print a model file's card: what it was trained on, its threshold, its figures."""
    from monitor.commands import model
    from monitor.detector.model_file import shipped

    model.show(file or shipped("ecg"), as_json)


@app.command()
def replay(
    source: Annotated[
        Path, typer.Argument(help="A .csv or .parquet file of beats, or a WFDB record.")
    ],
    device: Annotated[str, typer.Option("--device", metavar="ID", help="The device to be.")],
    rate: Annotated[
        Literal["1", "10", "max"],
        typer.Option(help="1: in real time; 10: ten times as fast; max: as fast as it goes."),
    ] = "1",
    beats_per_message: Annotated[int, typer.Option(min=1, max=10_000)] = 1,
    payload: Annotated[Literal["json", "float32"], typer.Option()] = "json",
    qos: Annotated[int, typer.Option(min=0, max=1)] = 1,
    start: Annotated[float, typer.Option(min=0, metavar="S", help="Begin at this second.")] = 0,
    stop: Annotated[
        float | None, typer.Option(min=0, metavar="S", help="End at this second.")
    ] = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Publish the beats of a file, as a device would."""
    from monitor import settings
    from monitor.commands import replay
    from monitor.ecg import records

    chosen = settings.load(config, settings.flags(broker=broker))
    pace = None if rate == "max" else float(rate)
    read = replay.from_record if records.is_record(source) else replay.from_file
    beats = read(source, start, stop)
    replay.publish(chosen, beats, device, pace, beats_per_message, payload, qos)


@app.command()
def what_if(
    source: Annotated[Path, typer.Argument(help="A WFDB record, or a file of beats.")],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FILE", help="Else the shipped one.")
    ] = None,
    start: Annotated[float, typer.Option(min=0, metavar="S", help="Begin at this second.")] = 0,
    out: Annotated[Path, typer.Option(help="The folder for the picture.")] = Path("out/what-if"),
) -> None:
    """Show how many alarms other settings would have raised on a recording."""
    from monitor.commands import what_if
    from monitor.detector.model_file import shipped

    what_if.main(source, model or shipped("ecg"), out, start)


@app.command()
def segment(
    rate: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="Of chunks that do not tell theirs, as float32."),
    ] = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Cut raw samples, ecg/<device>/samples, into beats and publish those."""
    from monitor import logs, settings
    from monitor.commands import segment

    logs.set_up()
    segment.run(settings.load(config, settings.flags(broker=broker)), rate)


@app.command()
def watch(
    device: Annotated[
        str | None, typer.Option("--device", metavar="ID", help="Only this device; else all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Show the alerts as they come, with the beat drawn."""
    from monitor import settings
    from monitor.commands import watch

    watch.watch(settings.load(config, settings.flags(broker=broker)), device, as_json)


@app.command()
def alarms(
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Those that stood since: 12h, 2d, or a time. Else all."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="ID", help="Only this device; else all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the beats.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    config: Config = None,
) -> None:
    """Show the alarms that the monitor has kept, and who acknowledged and shelved."""
    from monitor import settings
    from monitor.commands import alarms

    alarms.show(settings.load(config).history_file, since, device, as_json, as_csv)


By = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who does; else your login's name.")
]


@app.command()
def acknowledge(
    alarm: Annotated[str, typer.Argument(metavar="ID", help="The id of an alarm, or its begin.")],
    by: By = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Say that you have seen an alarm that is open."""
    from monitor import settings
    from monitor.commands import acknowledge

    acknowledge.acknowledge(settings.load(config, settings.flags(broker=broker)), alarm, by)


@app.command()
def shelve(
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    minutes: Annotated[
        float, typer.Option(min=0, max=1440, help="For so long; 0: alert of it again.")
    ],
    by: By = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Have nobody alerted of a device for a while; its alarms are kept all the same."""
    from monitor import settings
    from monitor.commands import acknowledge

    acknowledge.shelve(settings.load(config, settings.flags(broker=broker)), device, minutes, by)


@app.command()
def demo(
    seconds: Annotated[
        float | None, typer.Option(min=1, metavar="N", help="End after so many; else at Ctrl-C.")
    ] = None,
) -> None:
    """Show all of it on this machine alone: broker, simulated patients, daemon, alerts."""
    from monitor.commands import demo

    demo.run(seconds)


def main() -> NoReturn:
    """Run `ecg-monitor`."""
    terminal.run(app)
