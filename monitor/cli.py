"""The commands of `ecg-monitor`. A heavy module is imported by the command that needs it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from monitor import __version__, terminal

if TYPE_CHECKING:
    from monitor.settings import Settings

app = typer.Typer(
    name="ecg-monitor",
    help="Score heartbeats that arrive over MQTT and raise alarms. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Score heartbeats that arrive over MQTT and raise alarms. Not a medical device."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings file (TOML).")
]
Broker = Annotated[
    list[str] | None,
    typer.Option(
        "--broker",
        metavar="URL",
        help="Broker, mqtt://HOST:PORT or mqtts://HOST:PORT; may be repeated for the nodes of a "
        "cluster.",
    ),
]
Standby = Annotated[
    bool,
    typer.Option(
        "--standby",
        help="Wait until the program of the same client ID is gone, and take its place.",
    ),
]


def _settings(config: Path | None, broker: list[str] | None = None) -> "Settings":
    from monitor import configuration

    return configuration.load(config, configuration.flags(broker=broker))


@app.command()
def run(
    config: Config = None,
    broker: Broker = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FILE", help="Model file (default: the shipped detector)."),
    ] = None,
    standby: Standby = False,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print every setting with its value, as TOML, and exit."
        ),
    ] = False,
) -> None:
    """Run the monitor: score beats as they arrive, publish alerts, serve metrics."""
    from monitor import configuration, settings_toml

    flags = configuration.flags(broker=broker, model=model, standby=standby)
    settings = configuration.load(config, flags)
    if print_config:
        typer.echo(settings_toml.to_toml(settings), nl=False)
        return
    from monitor import logs
    from monitor.daemon import loop

    logs.set_up()
    loop.run(settings)


@app.command()
def batch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="An image example (basic, denoise, undercomplete or vae), or ecg to score beats.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data sets (default: ECG_DATA, or else a download); for ecg, also a "
            ".csv or .parquet file of beats, or a folder of Parquet files."
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model file (default: the shipped one).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to (default: out/batch/NAME).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    spark: Annotated[
        str | None,
        typer.Option(
            metavar="MASTER",
            help="Score Parquet files of beats on this Spark cluster: local[N], spark://HOST:PORT, "
            "yarn or k8s://URL.",
        ),
    ] = None,
) -> None:
    """Run an image example from its model file, or score files of beats."""
    from monitor.commands import batch

    batch.main(name, data, model, out or Path("out", "batch", name), as_json, spark)


@app.command()
def model(
    file: Annotated[
        Path | None, typer.Argument(help="Model file (default: the shipped detector).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Print a model file's card: training data, threshold and figures."""
    from monitor.commands import model
    from monitor.detector.model_file import shipped

    model.show(file or shipped("ecg"), as_json)


@app.command()
def replay(
    source: Annotated[
        Path,
        typer.Argument(help="A .csv, .csv.gz or .parquet file of beats, or a WFDB or EDF record."),
    ],
    device: Annotated[str, typer.Option("--device", metavar="ID", help="Device ID to publish as.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Publish the record's samples instead of its beats.")
    ] = False,
    lead: Annotated[
        str | None,
        typer.Option(
            "--lead",
            metavar="NAME",
            help="Channel of the record (default: the first ECG lead; with --raw, all of them).",
        ),
    ] = None,
    rate: Annotated[
        Literal["1", "10", "max"],
        typer.Option(help="Speed: 1 is real time, 10 is ten times as fast, max has no pauses."),
    ] = "1",
    beats_per_message: Annotated[
        int, typer.Option(min=1, max=10_000, help="Beats in each message.")
    ] = 1,
    payload: Annotated[
        Literal["json", "float32"],
        typer.Option(help="Encoding of the payload; float32 carries one lead of raw samples."),
    ] = "json",
    qos: Annotated[int, typer.Option(min=0, max=1, help="MQTT quality of service.")] = 1,
    start: Annotated[
        float, typer.Option(min=0, metavar="S", help="Second of the recording to start at.")
    ] = 0,
    stop: Annotated[
        float | None, typer.Option(min=0, metavar="S", help="Second to stop at (default: the end).")
    ] = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Publish the beats of a file or record, or a record's samples, as a device would."""
    from monitor.commands import replay
    from monitor.ecg import records
    from monitor.errors import UsageError

    settings = _settings(config, broker)
    pace = None if rate == "max" else float(rate)
    if not records.is_record(source):
        if raw or lead is not None:
            raise UsageError(f"--{'raw' if raw else 'lead'}: {source} is not a WFDB or EDF record")
        beats = replay.from_file(source, start, stop)
        replay.publish(settings, beats, device, pace, beats_per_message, payload, qos)
    elif raw:
        if beats_per_message > 1:
            raise UsageError("--beats-per-message: not with --raw, which publishes no beats")
        every_lead = lead is None and payload == "json"
        record = replay.read_record(source, lead, every_lead)
        chunks = replay.chunks_of(record, start, stop, every_lead)
        replay.publish_samples(settings, chunks, device, pace, payload, qos)
    else:
        beats = replay.from_record(replay.read_record(source, lead), start, stop)
        replay.publish(settings, beats, device, pace, beats_per_message, payload, qos)


@app.command()
def what_if(
    source: Annotated[
        Path | None,
        typer.Argument(help="A WFDB or EDF record, or a .csv or .parquet file of beats."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Model file (default: the shipped detector; with --device, the device's).",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="ID",
            help="Show what becomes of this device's alarms in the monitor's history: without "
            "SOURCE at other thresholds, with a recording of the device at all settings.",
        ),
    ] = None,
    start: Annotated[
        float, typer.Option(min=0, metavar="S", help="Second of the recording to start at.")
    ] = 0,
    lead: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Channel of the record (default: the first ECG lead)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write the figure to.")] = Path("out/what-if"),
    config: Config = None,
) -> None:
    """Show how many alarms other settings would have raised, and what of those judged by people."""
    from monitor.commands import what_if
    from monitor.detector.model_file import Detector, shipped
    from monitor.detector.per_device import Detectors
    from monitor.errors import UsageError

    if device is None:
        if source is None:
            raise UsageError("what-if: give a recording, a --device, or both")
        what_if.main(source, Detector(model or shipped("ecg")), out, start, lead=lead)
        return
    settings = _settings(config)
    alarms = what_if.known_alarms(settings.history_file, device)
    detector = Detector(model) if model else Detectors(settings.model).for_device(device)
    if source is None:
        what_if.show_thresholds(alarms, detector)
    else:
        what_if.main(source, detector, out, start, alarms, lead)


@app.command()
def report(
    source: Annotated[
        Path | None, typer.Argument(help="A WFDB or EDF record.", show_default=False)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="ID", help="Device to report on, from the history."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="With --device, from then on: 30m, 12h, 2d, or a time (default: 24h).",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FILE", help="Model file of this heart."),
    ] = None,
    lead: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Lead to cut beats from (default: the first ECG)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write (default: record or device, .html)."),
    ] = None,
    config: Config = None,
) -> None:
    """Write a report to look at: rates, trends, events with their strips, quality.

    It is on a recording, or on a device as the history knows it.
    """
    from monitor import configuration
    from monitor.commands import report
    from monitor.errors import UsageError

    if (source is None) == (device is None):
        raise UsageError("either SOURCE or --device")
    if source is None and (model or lead):
        raise UsageError("--model and --lead: only with SOURCE")
    if device is None and since is not None:
        raise UsageError("--since: only with --device")

    settings = configuration.load(config, configuration.flags(model=model))
    if source is not None:
        report.of_recording(source, settings, lead, out)
    elif device is not None:
        report.of_device(device, settings, since or "24h", out)


@app.command()
def segment(
    rate: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="Sampling rate of chunks that do not contain one."),
    ] = None,
    lead: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Lead to cut beats from (default: the first)."),
    ] = None,
    standby: Standby = False,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Run the daemon for raw samples: cut them into beats and publish those for the monitor.

    Samples arrive on ecg/<device>/samples, beats are published on ecg/<device>/beats.
    """
    from monitor import configuration, logs
    from monitor.segment import loop

    logs.set_up()
    flags = configuration.flags(broker=broker, rate=rate, lead=lead, standby=standby)
    loop.run(configuration.load(config, flags))


@app.command()
def watch(
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="ID", help="Show this device only (default: all)."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one alert per line.")
    ] = False,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Show alerts as they arrive, with the beat drawn."""
    from monitor.commands import watch

    watch.watch(_settings(config, broker), device, as_json)


@app.command()
def alarms(
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Only alarms active since then: 30m, 12h, 2d, or a time such as 2026-11-21T22:00 "
            "(default: all).",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="ID", help="Show this device only (default: all)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, beats included.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_fhir: Annotated[
        bool,
        typer.Option(
            "--fhir", help="Print FHIR R5, beats included: Bundles of 25 alarms, one per line."
        ),
    ] = False,
    show_burden: Annotated[
        bool,
        typer.Option(
            "--burden",
            help="Show what the alarms ask of people, after ISA-18.2; --device may be a pattern.",
        ),
    ] = False,
    judged: Annotated[
        bool, typer.Option("--judged", help="Only alarms that somebody has judged.")
    ] = False,
    beats: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="With --judged: write the beats that raised anomalies to a file for ecg-train, "
            "140 values a row and a label: 1, normal, if the alarm was judged false, 0 if true.",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="NAME",
            help="With --judged: write these beats to an annotated WFDB record: N if the alarm was "
            "judged false, Q if true.",
        ),
    ] = None,
    config: Config = None,
) -> None:
    """List alarms, past and active, and who acknowledged, judged or shelved them.

    This reads the monitor's history file, so run it on the monitor's machine.
    """
    from monitor.commands import alarms, burden, judged_beats
    from monitor.errors import UsageError

    file = _settings(config).history_file
    if show_burden:
        if judged or beats or record or as_csv or as_fhir:
            raise UsageError("--burden: only with --since, --device and --json")
        burden.show(file, since, device, as_json)
    elif beats is None and record is None:
        alarms.show(file, since, device, as_json, as_csv, judged, as_fhir)
    elif not judged or as_json or as_csv or as_fhir:
        raise UsageError(
            "--beats and --record: only with --judged, and without --json, --csv and --fhir"
        )
    else:
        judged_beats.export(file, since, device, beats, record)


By = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Name to record (default: your login name)."),
]


@app.command()
def acknowledge(
    alarm: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The alarm's id, as `ecg-monitor alarms` lists it, or its first characters, at "
            "least 6.",
        ),
    ],
    note: Annotated[
        str, typer.Option(metavar="TEXT", help="What you found or did, up to 200 characters.")
    ] = "",
    by: By = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Acknowledge an open alarm: record that somebody has seen it.

    One that is latched, its condition being over, is cleared.
    """
    from monitor.commands import acknowledge

    acknowledge.acknowledge(_settings(config, broker), alarm, by, note)


@app.command()
def judge(
    alarm: Annotated[
        str,
        typer.Argument(
            metavar="ALARM",
            help="The alarm's id, as `ecg-monitor alarms` lists it, or its first characters, at "
            "least 6. The alarm may be over.",
        ),
    ],
    verdict: Annotated[Literal["true", "false"], typer.Argument(help="Whether it was right.")],
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "",
    by: By = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="ID",
            help="The alarm's device: needed, with the whole id, if the alarm is over and the "
            "history is on another machine.",
        ),
    ] = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Record whether an alarm was right; the last judgement of an alarm counts."""
    from monitor.commands import acknowledge

    acknowledge.judge(_settings(config, broker), alarm, verdict == "true", note, by, device)


@app.command()
def shelve(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Device ID.")],
    minutes: Annotated[
        float, typer.Option(min=0, max=1440, help="How long, up to a day; 0 ends the shelving.")
    ],
    by: By = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="Kind of alarm to withhold, such as tachycardia; may be repeated (default: "
            "anomaly, signal-quality and silent).",
        ),
    ] = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Shelve a device: withhold its alerts for a while, as when its patient is being washed.

    Its alarms are still decided and recorded in the history.
    """
    from monitor.commands import acknowledge

    acknowledge.shelve(_settings(config, broker), device, minutes, by, kind or [])


Device = Annotated[str, typer.Argument(metavar="DEVICE", help="Device ID.")]


@app.command()
def admit(
    device: Device,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=1, max=60, help="Minutes of good beats to learn (default: learn.minutes)."
        ),
    ] = None,
    by: By = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the model is in use.")] = False,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Admit the patient at a device: learn this heart, and watch it by a model of its own.

    `ecg-train learn` must be running. Until a first model is learnt, only rhythm and signal
    quality are watched, not the shape of beats.
    """
    from monitor.commands import patient

    patient.admit(_settings(config, broker), device, minutes, by, wait)


@app.command()
def discharge(
    device: Device,
    keep_model: Annotated[
        bool, typer.Option("--keep-model", help="Keep the model for the patient's return.")
    ] = False,
    by: By = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Discharge the patient at a device: clear the alarms, forget the device and its model."""
    from monitor.commands import patient

    patient.discharge(_settings(config, broker), device, keep_model, by)


@app.command()
def choose(
    device: Device,
    model: Annotated[
        Literal["new", "old", "previous"],
        typer.Argument(
            help="new or old: end the trial of a new model; previous: go back by one version."
        ),
    ],
    by: By = None,
    config: Config = None,
    broker: Broker = None,
) -> None:
    """Choose which of a patient's models watches."""
    from monitor.commands import patient

    patient.choose(_settings(config, broker), device, model, by)


@app.command()
def notify(
    test: Annotated[
        bool, typer.Option("--test", help="Make a test call to everybody, and print the outcomes.")
    ] = False,
    config: Config = None,
) -> None:
    """Show who is called of alarms, and who is on duty now."""
    from monitor.commands import notify

    settings = _settings(config)
    notify.test(settings) if test else notify.show(settings)


@app.command()
def demo(
    seconds: Annotated[
        float | None,
        typer.Option(min=1, metavar="N", help="Stop after N seconds (default: at Ctrl-C)."),
    ] = None,
) -> None:
    """Run everything on this machine: a broker, simulated patients, the monitor, its alerts."""
    from monitor.commands import demo

    demo.run(seconds)


def main() -> NoReturn:
    """Run `ecg-monitor`."""
    terminal.run(app)
