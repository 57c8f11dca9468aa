"""Files of beats: what is read, what is refused and why, and that memory stays flat."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from monitor.ecg import beat_files
from monitor.errors import Failure

ROW = ",".join(["0.5"] * 140)
TEXTS = pa.list_(pa.field("element", pa.string()))


def some(rows: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, 140), np.float32)


def write_csv(path: Path, table: NDArray[np.float32]) -> Path:
    np.savetxt(path, table, fmt="%.9g", delimiter=",")
    return path


def read(path: Path, rows: int = beat_files.ROWS) -> beat_files.Block:
    blocks = list(beat_files.read(path, rows))
    labels = [block.labels for block in blocks if block.labels is not None]
    return beat_files.Block(
        np.concatenate([block.beats for block in blocks]),
        np.concatenate(labels) if labels else None,
        [str(device) for block in blocks for device in block.devices],
        np.concatenate([block.seq for block in blocks]),
    )


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_a_csv_is_read_in_blocks_of_any_size(tmp_path: Path, rows: int) -> None:
    table = some(20)
    block = read(write_csv(tmp_path / "ward-3.csv", table), rows)
    assert np.array_equal(block.beats, table)
    assert block.labels is None
    assert block.devices == ["ward-3"] * 20
    assert block.seq.tolist() == list(range(20))


def test_a_last_column_of_labels_is_recognised(tmp_path: Path) -> None:
    table = some(5)
    labels = np.array([1, 0, 1, 1, 0], np.float32)
    block = read(write_csv(tmp_path / "a.csv", np.column_stack([table, labels])), 2)
    assert np.array_equal(block.beats, table)
    assert block.labels is not None
    assert block.labels.tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "contains no beats; expected rows of 140 numbers"),
        ("1,2,3\n", "row 1 has 3 columns, expected 140, or 141 with the label last"),
        (f"{ROW}\n{ROW[:-4]}\n", "row 2 has 139 columns, expected 140"),
        (f"{ROW}\n\n1,2\n", "row 3 has 2 columns, expected 140"),
        (f"0.5,?{ROW[7:]}\n", "row 1, column 2: '?' is not a number"),
        (f"{ROW}\n{ROW}\nx{ROW[3:]}\n", "row 3, column 1: 'x' is not a number"),
        (f"{ROW}\n{ROW[:-3]}\n", "row 2, column 140: '' is not a number"),
        (f"{ROW}\n{ROW[:-3]}nan\n", "row 2, column 140: nan is not a finite number"),
        (f"1e39{ROW[3:]}\n", "row 1, column 1: inf is not a finite number"),
        (f"{ROW},3\n", "row 1, column 141: label 3 is neither 1 (normal) nor 0"),
        ("\x00\x01\x02", "row 1 has 1 columns, expected 140, or 141 with the label last"),
        (f"1_0{ROW[3:]}\n", "rows 1 to 1 are not all numbers"),
    ],
)
def test_a_csv_that_is_wrong_is_named_with_row_and_column(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(Failure) as failure:
        list(beat_files.read(path))
    assert str(failure.value) == f"{path}: {reason}"


NAMES = ",".join(f"t{i}" for i in range(140))
NUMBERS = ",".join(map(str, range(140)))
BEAT = ",".join(f"{i / 8}" for i in range(140))


@pytest.mark.parametrize(
    "content",
    [
        f"{NAMES}\n{BEAT}\n".encode(),
        f"{NUMBERS}\n{BEAT}\n".encode(),
        ",".join(map(str, range(1, 141))).encode() + f"\n{BEAT}\n".encode(),
        f",{NUMBERS}\n0,{BEAT}\n".encode(),
        f'"",{NUMBERS}\n"7",{BEAT}\n'.encode(),
        f"\ufeff{BEAT}\n".encode(),
        f"\ufeff{NAMES}\r\n{BEAT}\r\n".encode("utf-16-le"),
        f"\r\n{BEAT}\r\n\r\n".encode(),
        BEAT.encode(),
        BEAT.replace(",", ";").encode(),
        BEAT.replace(",", ";").replace(".", ",").encode(),
        f"{NAMES}\n{BEAT}".replace(",", ";").replace(".", ",").encode(),
        BEAT.replace(",", "\t").replace(".", ",").encode(),
        BEAT.replace(",", "  ").encode(),
        BEAT.replace(",", ", ").encode(),
        '"{}"\n'.format(BEAT.replace(",", '","')).encode(),
    ],
)
@pytest.mark.parametrize("name", ["bed-7.csv", "bed-7.CSV.gz"])
def test_a_csv_is_read_as_other_programs_write_it(
    tmp_path: Path, content: bytes, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    block = read(path)
    assert block.beats.tolist() == [[i / 8 for i in range(140)]]
    assert block.labels is None
    assert (list(block.devices), block.seq.tolist()) == (["bed-7"], [0])


def test_a_header_of_numbers_leaves_the_labels_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f",{NUMBERS},140\n0,{BEAT},1.0\n1,{BEAT},0.0\n")
    labels = read(path).labels
    assert labels is not None
    assert labels.tolist() == [True, False]


@pytest.mark.parametrize("damage", [lambda whole: whole[:40], lambda _: b"none"])
def test_a_broken_gzip_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(damage(gzip.compress(f"{BEAT}\n".encode())))
    with pytest.raises(Failure, match=r"a\.csv\.gz: .*(gzip|Compressed file ended)"):
        read(path)


def test_the_row_is_counted_over_blocks(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"{ROW}\n" * 10 + "1,2\n")
    with pytest.raises(Failure, match="row 11 has 2 columns, expected 140"):
        list(beat_files.read(path, rows=4))


def test_parquet_holds_beats_as_columns_lists_or_bytes(tmp_path: Path) -> None:
    table = some(30)
    columns = {str(i): table[:, i] for i in range(140)}
    labels = np.arange(30) % 3 == 0
    pq.write_table(pa.table(columns | {"label": labels}), tmp_path / "columns.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), 140)
    listed = pa.table(
        {
            "device": [f"d{i % 2}" for i in range(30)],
            "seq": pa.array(range(100, 130), pa.int32()),
            "beat": lists,
            "label": labels.astype(np.int8),
        }
    )
    pq.write_table(listed, tmp_path / "lists.parquet")
    for kind in (pa.binary(560), pa.binary(), pa.large_binary()):
        packed = pa.array([beat.astype("<f4").tobytes() for beat in table], kind)
        pq.write_table(listed.set_column(2, "beat", packed), tmp_path / f"{kind}.parquet")
    files = {path.stem for path in tmp_path.iterdir()}
    assert files == {"columns", "lists", "fixed_size_binary[560]", "binary", "large_binary"}
    for name in sorted(files):
        block = read(tmp_path / f"{name}.parquet", rows=8)
        assert np.array_equal(block.beats, table)
        assert block.labels is not None
        assert np.array_equal(block.labels, labels)
        if name != "columns":
            assert list(block.devices[:3]) == ["d0", "d1", "d0"]
            assert block.seq.tolist() == list(range(100, 130))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"a": [1.0]}, "has 1 columns of numbers, expected 140, or 141 with the label last"),
        ({"beat": [[1.0, 2.0]]}, "row 1, column 'beat': a list of 2 numbers, expected 140"),
        (
            {"beat": [[0.5] * 140, [0.5] * 139, [0.5] * 141]},
            "row 2, column 'beat': a list of 139 numbers, expected 140",
        ),
        ({"beat": pa.array([[0.5] * 140, None])}, "row 2, column 'beat' is empty"),
        ({"beat": [b"1" * 560, b""]}, "row 2, column 'beat': 0 bytes, expected 560"),
        ({"beat": pa.array([b"1"], pa.binary(1))}, "row 1, column 'beat': 1 bytes, expected 560"),
        ({"beat": pa.array([], pa.binary(560))}, "contains no beats; expected rows of 140 numbers"),
        ({"beat": [b"\0\0\x80\x7f" * 140]}, "row 1, column 1: inf is not a finite number"),
        ({"beat": [[0.5] * 139 + [None]]}, "row 1, column 140: nan is not a finite number"),
        ({"beat": [[1e39] + [0.5] * 139]}, "row 1, column 1: inf is not a finite number"),
        ({"beat": [["a"]]}, f"column 'beat' contains {TEXTS}, expected numbers"),
        ({"beat": [[0.5] * 140], "seq": ["a"]}, "column 'seq' contains string, expected integers"),
        (
            {"beat": [[0.5] * 140], "seq": pa.array([None], pa.int64())},
            "row 1, column 'seq' is empty",
        ),
        ({"patient": ["x"]}, "column 'patient' contains string, expected numbers"),
        ({"device": pa.array([], pa.string())}, "contains no beats; expected rows of 140 numbers"),
    ],
)
def test_a_parquet_file_of_something_else_is_refused(
    tmp_path: Path, table: dict[str, object], reason: str
) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(Failure) as failure:
        list(beat_files.read(path))
    assert str(failure.value) == f"{path}: {reason}"


def test_a_folder_is_read_file_by_file_and_row_group_by_row_group(tmp_path: Path) -> None:
    table = some(25)
    beats = pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), 140)
    (tmp_path / "2026").mkdir()
    pq.write_table(pa.table({"beat": beats[:5]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"beat": beats[5:]}), tmp_path / "2026" / "b.parquet", row_group_size=9)
    pq.write_table(pa.table({"beat": beats[:0]}), tmp_path / "2026" / "empty.parquet")
    (tmp_path / "_temporary.parquet").write_text("not yet a file")
    read_back = read(tmp_path, rows=4)
    assert np.array_equal(read_back.beats, np.concatenate([table[5:], table[:5]]))
    assert read_back.devices == ["b"] * 20 + ["a"] * 5
    assert read_back.seq.tolist() == [*range(20), *range(5)]
    inside = tmp_path / "2026" / "b.parquet"
    assert beat_files.row_groups(inside) == [9, 9, 2]
    (second, third) = beat_files.read_row_groups(inside, range(1, 3))
    assert np.array_equal(np.concatenate([second.beats, third.beats]), table[14:])
    assert [*second.seq, *third.seq] == list(range(9, 20))
    (tmp_path / "other").mkdir()
    with pytest.raises(Failure, match=r"contains no \.parquet file"):
        beat_files.read(tmp_path / "other")


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(Failure, match="not a readable Parquet file"):
        list(beat_files.read(path))
    with pytest.raises(Failure, match="no such file"):
        list(beat_files.read(tmp_path / "none.csv"))
    with pytest.raises(Failure, match="no such file"):
        list(beat_files.read(tmp_path / "none.parquet"))
    with pytest.raises(Failure, match="no such file"):
        list(beat_files.read(tmp_path / "none"))
    (tmp_path / "beats.xlsx").touch()
    with pytest.raises(Failure, match=r"must end in \.csv, \.csv\.gz or \.parquet"):
        list(beat_files.read(tmp_path / "beats.xlsx"))


# VmHWM and not ru_maxrss, which a new process takes over from the one that started it.
PEAK = """
import re, sys
from pathlib import Path
from monitor.ecg import beat_files
rows = sum(len(block.beats) for block in beat_files.read(Path(sys.argv[1])))
print(rows, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for rows in (20_000, 300_000):
        path = tmp_path / f"{rows}.{suffix}"
        if suffix == "csv":
            path.write_text(f"{ROW}\n" * rows)
        else:  # in one row group, and not to be compressed
            table = some(rows)
            columns = {str(i): table[:, i] for i in range(140)}
            pq.write_table(pa.table(columns), path, row_group_size=rows, use_dictionary=False)
        ran = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
        )
        read, peak = map(int, ran.stdout.split())
        assert read == rows
        peaks.append(peak)
        path.unlink()
    # 300,000 beats are 168 MB as float32: whoever keeps them shows it.
    assert peaks[1] < peaks[0] + 60, f"peaks of {peaks} MB"
