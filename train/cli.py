"""The commands of `ecg-train`. TensorFlow is imported by the command that needs it."""

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from monitor import errors, terminal
from monitor.cli import Broker, Config, Standby

app = typer.Typer(
    name="ecg-train",
    help="Train autoencoders and write them as model files for ecg-monitor.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    Path | None,
    typer.Option(help="Folder of the data sets (default: ECG_DATA, or else a download)."),
]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, help="Passes over the training data (default: the recipe's)."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed.")]
Recipe = Annotated[
    Literal["tutorial", "tuned"],
    typer.Option(help="tutorial: the source's settings; tuned: those of the shipped models."),
]


@app.callback()
def train() -> None:
    """Train autoencoders and write them as model files for ecg-monitor."""


@app.command()
def anomaly(
    data: Data = None,
    out: Out = Path("out/anomaly"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tutorial",
) -> None:
    """Train the TensorFlow tutorial's ECG detector to the letter, with five seeds or --seed."""
    if recipe != "tutorial":
        raise errors.UsageError(
            "--recipe tuned: anomaly has only the tutorial's recipe; the tuned detector is `ecg`"
        )
    from train.detectors import tutorial

    tutorial.main(data, out, epochs or tutorial.EPOCHS, seed)


@app.command()
def ecg(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data sets (default: ECG_DATA, or else a download); or a .csv or "
            ".parquet file of one patient's beats, 140 values per row, to train that patient's "
            "detector."
        ),
    ] = None,
    out: Out = Path("out/ecg"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
    networks: Annotated[
        Literal["1", "5"] | None,
        typer.Option(help="Score with five networks or one (default: one distilled from five)."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="WFDB or EDF record of a patient, to train their own detector."),
    ] = None,
    lead: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Channel of the record (default: the first ECG lead)."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=1, help="Minutes of the record to train on, from its start.")
    ] = 5,
) -> None:
    """Train the shipped detector, or one for a patient (--record, or --data FILE.csv)."""
    if recipe != "tuned":
        raise errors.UsageError(
            "--recipe tutorial: ecg has only the tuned recipe; the tutorial's detector is `anomaly`"
        )
    beats = (
        data if data and (data.is_file() or data.suffix in (".csv", ".gz", ".parquet")) else None
    )
    if lead is not None and not record:
        raise errors.UsageError(f"--lead {lead!r}: needs --record")
    if record and data:
        raise errors.UsageError(
            "--record and --data exclude each other: a patient's beats come from one of them"
        )
    if networks and (record or beats):
        raise errors.UsageError("--networks: not for a patient's detector")
    from train.detectors import ecg5000, patient

    if source := record or beats:
        span = minutes if record else None
        patient.main(source, span, out, epochs or ecg5000.EPOCHS, seed or 0, lead)
    else:
        ecg5000.main(
            data, out, epochs or ecg5000.EPOCHS, seed or 0, int(networks) if networks else None
        )


@app.command("second-opinion")
def second_opinion(
    records: Annotated[
        list[Path],
        typer.Option(help="Folder of annotated WFDB records to train on; may be repeated."),
    ],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("out/second_opinion.npz"),
    seed: Seed = None,
) -> None:
    """Train the second opinion of patients' detectors, and evaluate it on records left out."""
    from train.detectors import teaching

    teaching.main(records, out, seed or 0)


Table = Literal["records", "settings", "rhythm", "peaks", "stress", "file"]


@app.command()
def evaluate(
    data: Data = None,
    out: Out = Path("out/evaluate"),
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            "--mitdb",
            help="Folder of annotated WFDB records, to evaluate patients' own detectors on.",
        ),
    ] = None,
    challenge: Annotated[
        Path | None,
        typer.Option(
            help="Folder of intensive-care alarms in the format of the PhysioNet/CinC 2015 "
            "challenge, to evaluate the daemons' decisions on."
        ),
    ] = None,
    table: Annotated[
        Table | None,
        typer.Option(
            help="With --records: records (the default) prints the tables of EC57 and the alarms; "
            "settings, the results of other alarm settings; rhythm, the arrhythmias found and "
            "false alarms; peaks, R peak detection; stress, robustness to noise, a lead that is "
            "off or reversed, and other sampling rates. With --data: file, detectors fitted to "
            "files of one patient's beats."
        ),
    ] = None,
) -> None:
    """Evaluate detectors and alarms on ECG5000, annotated records or intensive-care alarms."""
    if records and challenge:
        raise errors.UsageError("--records and --challenge exclude each other")
    if challenge:
        if table:
            raise errors.UsageError(f"--table {table}: not with --challenge, which has its own")
        from train.evaluation import challenge as alarms

        alarms.main(challenge, out)
    elif records:
        _evaluate_records(records, out, table or "records")
    elif table == "file":
        from train.evaluation import patient_file

        patient_file.main(data, out)
    elif table:
        raise errors.UsageError(f"--table {table}: needs --records")
    else:
        from train.evaluation import ecg5000

        ecg5000.main(data, out)


def _evaluate_records(folder: Path, out: Path, table: Table) -> None:
    if table == "records":
        from train.evaluation import patients

        patients.main(folder, out)
    elif table == "settings":
        from train.evaluation import alarm_settings

        alarm_settings.main(folder)
    elif table == "rhythm":
        from train.evaluation import rhythm

        rhythm.main(folder, out)
    elif table == "peaks":
        from train.evaluation import rpeaks

        rpeaks.main(folder, out)
    elif table == "stress":
        from train.evaluation import robustness

        robustness.main(folder, out)
    else:
        raise errors.UsageError("--table file: not with --records; it uses beats of ECG5000")


@app.command()
def learn(config: Config = None, broker: Broker = None, standby: Standby = False) -> None:
    """Run the learner: fit a model for each patient that is admitted, from the live beats.

    Models are written to model.folder, where the monitor takes them over.
    """
    from monitor import configuration, logs
    from train.learn import loop

    logs.set_up()
    loop.run(configuration.load(config, configuration.flags(broker=broker, standby=standby)))


@app.command()
def simulator(data: Data = None, out: Out = Path("out/simulator"), seed: Seed = None) -> None:
    """Fit the beat simulator that the demo uses, and evaluate it with the shipped detector."""
    from train import simulator

    simulator.main(data, out, seed or 0)


@app.command()
def basic(
    data: Data = None,
    out: Out = Path("out/basic"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """Train the TensorFlow tutorial's first autoencoder: two dense layers, on Fashion-MNIST."""
    _images("basic", data, out, epochs, seed or 0, recipe)


@app.command()
def denoise(
    data: Data = None,
    out: Out = Path("out/denoise"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """Train the TensorFlow tutorial's denoising autoencoder: convolutions, on Fashion-MNIST."""
    _images("denoise", data, out, epochs, seed or 0, recipe)


@app.command()
def undercomplete(
    data: Data = None,
    out: Out = Path("out/undercomplete"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """Train the Keras blog's simplest autoencoder: a code of 32, on MNIST."""
    _images("undercomplete", data, out, epochs, seed or 0, recipe)


@app.command()
def vae(
    data: Data = None,
    out: Out = Path("out/vae"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """Train the Keras example's variational autoencoder: a two-dimensional code, on MNIST."""
    from train import backend

    backend.load()
    from train.images import vae

    vae.main(data, out, epochs, seed or 0, recipe)


@app.command("all")
def everything(
    data: Data = None,
    out: Out = Path("out"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """Train all examples and the detector, and write a report of all of them."""
    anomaly(data, out / "anomaly", epochs, seed)
    ecg(data, out / "ecg", epochs, seed)
    basic(data, out / "basic", epochs, seed, recipe)
    denoise(data, out / "denoise", epochs, seed, recipe)
    undercomplete(data, out / "undercomplete", epochs, seed, recipe)
    vae(data, out / "vae", epochs, seed, recipe)
    from train.images import report

    names = ["anomaly", "ecg", "basic", "denoise", "undercomplete", "vae"]
    page = report.write_page(out, names)
    print(f"wrote {page}")


def _images(
    name: str, data: Path | None, out: Path, epochs: int | None, seed: int, recipe: str
) -> None:
    from train import backend

    backend.load()
    from train.images import autoencoders

    autoencoders.main(name, data, out, epochs, seed, recipe)


def main() -> NoReturn:
    """Run `ecg-train`."""
    terminal.run(app)
