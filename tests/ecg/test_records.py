"""Recordings from other people's software: their leads, units, rates and annotations."""

import re
import warnings
from pathlib import Path

import edfio
import numpy as np
import pytest

from monitor.ecg import records
from monitor.ecg.records import ECG_LEAD
from monitor.errors import Failure, UsageError
from tests.harness.signals import heart

with warnings.catch_warnings(action="ignore"):  # it is behind on what pandas deprecates
    import wfdb

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # of wfdb, as it writes

RATE = 250
SIGNAL, PEAKS = heart(20, RATE)


def write(folder: Path, names: list[str], units: list[str], name: str = "r") -> Path:
    """Write a WFDB record whose every channel is the ECG, times its number from 1."""
    signals = np.stack([SIGNAL * (i + 1) for i in range(len(names))], axis=1)
    wfdb.wrsamp(name, RATE, units, names, signals, fmt=["16"] * len(names), write_dir=str(folder))
    return folder / name


def test_the_first_ecg_is_taken_and_all_of_them_are_leads(tmp_path: Path) -> None:
    path = write(tmp_path, ["ABP", "RESP", "II", "V1"], ["mmHg", "mV", "mV", "mV"])
    record = records.read(path)
    assert record.lead == "II"
    assert list(record.leads) == ["II", "V1"]
    assert np.allclose(record.signal, 3 * SIGNAL, atol=1e-3)
    assert np.allclose(records.read(path, "v1").signal, 4 * SIGNAL, atol=1e-3)
    with pytest.raises(UsageError, match=r"--lead 'V6': .*r has 'ABP', 'RESP', 'II', 'V1'"):
        records.read(path, "V6")


@pytest.mark.parametrize(
    "name",
    [
        "I",
        "II",
        "aVR",
        "V",
        "V1",
        "MLII",
        "MV2",
        "D3",
        "CM5",
        "ECG",
        "ECG1",
        "ECG 2",
        "EKG",
        "vx",
        "ML5",
        "E-S",
        "-aVR",
        "EEG EKG1-REF",
        "II (ECG)",
        "Elektrokardiogramm",
    ],
)
def test_names_of_leads(name: str) -> None:
    assert ECG_LEAD.match(name)


@pytest.mark.parametrize(
    "name",
    [
        "ABP",
        "ART",
        "PLETH",
        "RESP",
        "CVP",
        "PAP",
        "EEG",
        "EMG",
        "EOG",
        "SpO2",
        "BP",
        "CO2",
        "Chest",
        "Thorax",
        "EEG V1-M2",
    ],
)
def test_names_of_other_signals(name: str) -> None:
    assert not ECG_LEAD.match(name)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("mV", 1),
        ("MV", 1),
        ("millivolts", 1),
        ("[mV]", 1),
        ("A.U.", 1),
        ("uV", 1e-3),
        ("µV", 1e-3),
        ("μV", 1e-3),
        ("microvolt", 1e-3),
        ("V", 1e3),
        ("nV", 1e-6),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_units_in_any_spelling(tmp_path: Path, unit: str, factor: float, encoding: str) -> None:
    path = write(tmp_path, ["ECG"], ["mV"])
    header = path.with_suffix(".hea")
    try:
        header.write_bytes(header.read_text().replace("/mV", f"/{unit}").encode(encoding))
    except UnicodeEncodeError:
        pytest.skip("the Greek letter is not in Latin-1")
    assert np.allclose(records.read(path).signal, factor * SIGNAL, atol=1e-3 * factor)


@pytest.mark.parametrize(
    ("names", "units", "lead"),
    [
        (["PLETH,", "II,"], ["NU", "mV"], "II,"),  # as in BIDMC
        (["RESP", "II"], ["mV", "NU"], "II"),
        (["PLETH", "Chest"], ["NU", "mV"], "Chest"),
        (["EEG FP1-REF", "EEG EKG1-REF"], ["uV", "uV"], "EEG EKG1-REF"),
    ],
)
def test_the_ecg_is_known_by_name_or_else_by_unit(
    tmp_path: Path, names: list[str], units: list[str], lead: str
) -> None:
    path = write(tmp_path, names, units)
    assert records.read(path).lead == lead
    assert records.read(path, lead.strip(",")).lead == lead


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("r 1 250", "\ufeffr 1 2.5e2"),
        ("r 1 250", "r 1 250/250(0)"),
        ("r 1 250", "# Müller, 70 µV\n\nr 1 0"),  # 250 Hz where none is given
        ("\n", "\r\n"),
        (" 0 II", " 0\tII"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_headers_of_other_programs(tmp_path: Path, old: str, new: str, encoding: str) -> None:
    path = write(tmp_path, ["II"], ["mV"])
    header = path.with_suffix(".hea")
    text = header.read_text()
    assert old in text
    header.write_bytes(text.replace(old, new).encode(encoding, "ignore"))
    record = records.read(header.with_suffix(".dat"))
    assert (record.lead, record.rate) == ("II", RATE)
    assert np.allclose(record.signal, SIGNAL, atol=1e-3)


def test_an_unknown_unit_does_not_become_the_name(tmp_path: Path) -> None:
    path = write(tmp_path, ["II"], ["mV"])
    header = path.with_suffix(".hea")
    header.write_text(re.sub(r"/mV", "/A.U.", header.read_text()))
    assert records.read(path).lead == "II"


def test_leads_that_were_not_sampled_at_once_are_brought_together(tmp_path: Path) -> None:
    path = write(tmp_path, ["II"], ["mV"])
    header = path.with_suffix(".hea")
    header.write_text(header.read_text().replace(" 16 ", " 16:10+0 ", 1))
    assert np.allclose(records.read(path).signal[:-10], SIGNAL[10:], atol=1e-3)


def test_each_segment_has_its_own_units_and_leads(tmp_path: Path) -> None:
    write_segments = {"a": (["ABP", "II"], ["mmHg", "uV"]), "b": (["II", "V"], ["mV", "mV"])}
    for name, (names, units) in write_segments.items():
        write(tmp_path, names, units, name)
    header = tmp_path / "a.hea"
    header.write_bytes(header.read_text().replace("/uV", "/µV").encode("latin-1"))
    n = len(SIGNAL)
    (tmp_path / "r.hea").write_text(f"r/3 3 {RATE} {2 * n + 500}\na {n}\n~ 500\nb {n}\n")
    record = records.read(tmp_path / "r")
    assert list(record.leads) == ["II", "V"]
    assert np.allclose(record.signal[:n], 2e-3 * SIGNAL, atol=1e-5)
    assert np.allclose(record.signal[n + 500 :], SIGNAL, atol=1e-3)
    assert np.all(record.signal[n : n + 500] == record.signal[n - 1])
    (tmp_path / "r.hea").write_text(f"r/2 2 {RATE} {10**12}\na {n}\n~ {10**12}\n")
    with pytest.raises(Failure, match="days, at most 31 are read"):
        records.read(tmp_path / "r")


def test_several_samples_a_frame(tmp_path: Path) -> None:
    n = len(SIGNAL)
    record = wfdb.Record(
        record_name="r",
        n_sig=2,
        fs=125,
        sig_len=n // 2,
        file_name=["r.dat", "r.dat"],
        fmt=["16", "16"],
        samps_per_frame=[1, 2],
        adc_gain=[1000.0, 1000.0],
        baseline=[0, 0],
        units=["mmHg", "mV"],
        adc_res=[16, 16],
        adc_zero=[0, 0],
        init_value=[0, 0],
        checksum=[0, 0],
        block_size=[0, 0],
        sig_name=["ABP", "II"],
        e_d_signal=[np.zeros(n // 2, np.int64), np.round(1000 * SIGNAL).astype(np.int64)],
    )
    record.wrsamp(expanded=True, write_dir=str(tmp_path))
    read = records.read(tmp_path / "r")
    assert (read.lead, read.rate) == ("II", 250)
    assert np.allclose(read.signal, SIGNAL, atol=1e-3)


def test_annotations_have_a_rate_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, ["II"], ["mV"])
    symbols = ["N"] * len(PEAKS)
    wfdb.wrann("r", "atr", PEAKS, symbols, write_dir=str(tmp_path))
    assert np.array_equal(records.read(path).positions, PEAKS)
    wfdb.wrann("r", "atr", PEAKS * 4, symbols, fs=1000, write_dir=str(tmp_path))
    assert np.abs(records.read(path).positions - PEAKS).max() <= 1
    assert set(records.read(path).classes) == {"N"}


def test_broken_annotations_are_named_where_they_are_needed(tmp_path: Path) -> None:
    path = write(tmp_path, ["II"], ["mV"])
    (tmp_path / "r.atr").write_bytes(b"\x00\xff\xfc" * 7)
    assert len(records.read(path, annotated=False).positions) == 0
    try:
        records.read(path)
    except Failure as failure:
        assert "r.atr" in str(failure)


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no WFDB record there"):
        records.read(tmp_path / "none.hea")
    for content in (b"", b"r two", b"r 1 250 100\nr.dat 16 200/mV"):
        (tmp_path / "r.hea").write_bytes(content)
        with pytest.raises(Failure, match="r"):
            records.read(tmp_path / "r")
    (tmp_path / "r.edf").write_bytes(b"0       not EDF")
    with pytest.raises(Failure, match=r"r\.edf: not a readable EDF file"):
        records.read(tmp_path / "r.edf")
    with pytest.raises(Failure, match="no such file"):
        records.read(tmp_path / "none.edf")
    assert not records.is_record(Path()) and not records.is_record(Path("/"))


def test_edf_is_read(tmp_path: Path) -> None:
    edf = edfio.Edf(
        [
            edfio.EdfSignal(np.zeros(2000), 100, label="Resp", physical_range=(-1, 1)),
            edfio.EdfSignal(1000 * SIGNAL, RATE, label="ECG II", physical_dimension="uV"),
        ]
    )
    edf.write(tmp_path / "r.edf")
    assert records.is_record(tmp_path / "r.edf")
    record = records.read(tmp_path / "r.edf")
    assert (record.lead, record.rate) == ("ECG II", RATE)
    assert np.allclose(record.signal, SIGNAL, atol=1e-3)
    at = np.array([beat.seq for beat in records.beats(record)])
    assert len(at) == len(PEAKS)


def write_edf(path: Path, unit: str = "uV", names: tuple[str, ...] = ("ECG II",)) -> bytearray:
    """Write an EDF+ file in data records of a second; the second channel is twice the first."""
    signals = [
        edfio.EdfSignal(1000 * SIGNAL * (i + 1), RATE, label=name, physical_dimension=unit)
        for i, name in enumerate(names)
    ]
    notes = [edfio.EdfAnnotation(1.5, None, "Müller turns over")]
    edfio.Edf(signals, annotations=notes, data_record_duration=1).write(path)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"uV      ", "µV".encode("latin-1").ljust(8)),
        (b"uV      ", "µV".encode().ljust(8)),
        (b"uV      ", b"microV  "),
        (b"ECG II  ", b"EKG II \xe9"),
        (b"-32768  ", b"-32768,0"),
        (b"EDF+C", b"EDF+D"),
    ],
)
@pytest.mark.parametrize("name", ["r.edf", "R.EDF", "r.rec"])
def test_edf_of_other_programs(tmp_path: Path, old: bytes, new: bytes, name: str) -> None:
    path = tmp_path / name
    content = write_edf(path)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    assert records.is_record(path)
    assert np.allclose(records.read(path).signal, SIGNAL, atol=1e-3)


def test_the_gaps_of_a_discontinuous_edf_are_time(tmp_path: Path) -> None:
    path = tmp_path / "r.edf"
    content = bytes(write_edf(path)).replace(b"EDF+C", b"EDF+D", 1)
    for second in range(10, 20):
        content = content.replace(b"+%d\x14\x14" % second, b"+%d\x14\x14" % (second + 40))
    path.write_bytes(content)
    signal = records.read(path).signal
    half = 10 * RATE
    assert len(signal) == 60 * RATE
    assert np.allclose(signal[:half], SIGNAL[:half], atol=1e-3)
    assert np.allclose(signal[-half:], SIGNAL[half:], atol=1e-3)
    assert np.all(signal[half:-half] == signal[half - 1])
    path.write_bytes(content.replace(b"+59\x14\x14", b"+9e9\x14\x14"[:5]))
    with pytest.raises(Failure, match=r"r\.edf"):
        records.read(path)


def test_two_channels_of_one_name_are_two_leads(tmp_path: Path) -> None:
    write_edf(tmp_path / "r.edf", names=("ECG", "ECG"))
    record = records.read(tmp_path / "r.edf")
    assert list(record.leads) == ["ECG", "ECG (2)"]
    assert np.allclose(record.signal, SIGNAL, atol=1e-3)
    assert np.allclose(records.read(tmp_path / "r.edf", "ecg (2)").signal, 2 * SIGNAL, atol=1e-3)


def test_bdf_is_read(tmp_path: Path) -> None:
    signal = edfio.BdfSignal(1000 * SIGNAL, RATE, label="EKG", physical_dimension="uV")
    edfio.Bdf([signal]).write(tmp_path / "r.bdf")
    assert records.is_record(tmp_path / "r.bdf")
    assert np.allclose(records.read(tmp_path / "r.bdf").signal, SIGNAL, atol=1e-3)
