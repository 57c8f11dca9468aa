"""Read beats from a file, block by block: memory does not grow with the file.

A file of beats is a table with 140 numbers in a row, in the units of its source. A 141st column is
the label: 1 for a normal beat, 0 for any other (the layout of `ecg.csv`, the TensorFlow tutorial's
ECG5000). A CSV file may be compressed with gzip, may have a header, of names or of column numbers,
and is read as spreadsheets write it: with semicolons and decimal commas, with tabs, with empty
lines, in UTF-8 or UTF-16. A Parquet file may store each beat in one column instead, as a list or as
the 560 bytes that devices send (little-endian float32), and may have the columns `device` and
`seq`; a folder of Parquet files is read file by file.
"""

import contextlib
import gzip
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.beat import BYTES, SAMPLES
from monitor.errors import Failure

ROWS = 4096
"""Rows in a block: 2.3 MB of beats, enough to keep the scorer busy. Blocks of 8,192 and 16,384 are
no faster: they save Python's time, and leave the cache."""


SUFFIXES = (".csv", ".csv.gz", ".parquet")
"""Of files of beats."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file of beats."""

    beats: NDArray[np.float32]
    """[n, 140], all finite."""
    labels: NDArray[np.bool_] | None
    """[n], True for a normal beat; None if the file has no labels."""
    devices: Any
    """The names, [n]; that of the file without its suffix if the file has no column `device`.

    A list, or Arrow's array where a Parquet file has them: a string of Python's for each beat, made
    only to be written again, takes a third as long as to score the beat.
    """
    seq: NDArray[np.int64]
    """[n]; the row's number, counted from 0, if the file has no column `seq`."""


def read(path: Path, rows: int = ROWS) -> Iterator[Block]:
    """Return an iterator over a `.csv`, `.csv.gz` or `.parquet` file, in blocks of at most `rows`.

    `path` may also be a folder with `.parquet` files.

    Raises:
        Failure: at once, the file does not exist or has another suffix; while iterating, a row has
            the wrong length or contains something other than finite numbers (the message gives row
            and column, counted from 1; in a CSV file the row is the line), or there are no beats.
    """
    return _blocks(path, files(path), rows)


def files(path: Path) -> list[Path]:
    """Return the file at `path`, or the `.parquet` files in the folder at `path`, by name.

    Folders in it are searched, too. Names that begin with a dot or an underscore are left out, as
    by Spark, whose unfinished files are called so.

    Raises:
        Failure: there is no such file, or it has another suffix.
    """
    if path.is_dir():
        found = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() == ".parquet"
            and file.is_file()
            and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
        ]
        if not found:
            raise Failure(f"{path}: contains no .parquet file")
        return found
    if not path.is_file():
        raise Failure(f"{path}: no such file")
    if not path.name.lower().endswith(SUFFIXES):
        raise Failure(f"{path}: the name of a file of beats must end in .csv, .csv.gz or .parquet")
    return [path]


def row_groups(path: Path) -> list[int]:
    """Return the number of rows in each row group of a Parquet file.

    Raises:
        Failure: the file cannot be read.
    """
    with _parquet_file(path) as file:
        return [
            file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)
        ]


def read_row_groups(path: Path, groups: range) -> Iterator[Block]:
    """Return an iterator over row groups of a Parquet file, in the very blocks of `read`.

    Raises:
        Failure: while iterating, as `read` does; but there may be no beats.
    """
    for part in _parquet(path, ROWS, groups):
        yield _block(path, path.stem, 0, part)


class _Rows(NamedTuple):
    """Consecutive rows, and where they stand in the file.

    Attributes:
        table: the numbers, float32 [n, 140 or 141].
        places: the number of each row, counted from 1, as messages give it: [n].
        devices: [n], an Arrow array, if the file has them.
        seq: [n]; a CSV file has none.
    """

    table: NDArray[np.float32]
    places: Sequence[int]
    devices: Any = None
    seq: NDArray[np.int64] | None = None


def _blocks(path: Path, contents: list[Path], rows: int) -> Iterator[Block]:
    empty = True
    for file in contents:
        suffix = next(suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix))
        reader = _parquet if suffix == ".parquet" else _csv
        start = 0
        try:
            for part in reader(file, rows):
                yield _block(file, file.name[: -len(suffix)], start, part)
                start += len(part.table)
                empty = False
        except OSError as error:
            raise Failure(f"{file}: {error.strerror or error}") from error
        except (EOFError, zlib.error) as error:
            raise Failure(f"{file}: not a readable gzip file: {error}") from None
    if empty:
        raise Failure(f"{path}: contains no beats; expected rows of {SAMPLES} numbers")


def _block(path: Path, device: str, start: int, rows: _Rows) -> Block:
    table, places, devices, seq = rows
    finite = np.isfinite(table)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise Failure(
            f"{path}: row {places[row]}, column {column + 1}: "
            f"{table[row, column]} is not a finite number"
        )
    labels = None
    if table.shape[1] > SAMPLES:
        labels = table[:, SAMPLES] == 1
        wrong = ~labels & (table[:, SAMPLES] != 0)
        if wrong.any():
            row = int(wrong.argmax())
            raise Failure(
                f"{path}: row {places[row]}, column {SAMPLES + 1}: "
                f"label {table[row, SAMPLES]:g} is neither 1 (normal) nor 0"
            )
    n = len(table)
    return Block(
        beats=np.ascontiguousarray(table[:, :SAMPLES]),
        labels=labels,
        devices=[device] * n if devices is None else devices,
        seq=np.arange(start, start + n) if seq is None else seq,
    )


def _csv(path: Path, rows: int) -> Iterator[_Rows]:
    with _open(path) as file:
        lines: Iterator[tuple[int, str]] = (
            (place, line) for place, line in enumerate(file, 1) if line.strip()
        )
        first = next(lines, None)
        if first is None:
            return
        place, line = first
        delimiter = next((each for each in ";\t," if each in line), None)  # None: white space
        cells = _cells(line, delimiter)
        header = _is_header(cells)
        unnamed = int(header and cells[0] == "")  # pandas and R write the rows' numbers there
        columns = len(cells) - unnamed
        if columns not in (SAMPLES, SAMPLES + 1):
            raise Failure(
                f"{path}: row {place} has {columns} columns, "
                f"expected {SAMPLES}, or {SAMPLES + 1} with the label last"
            )
        if not header:
            lines = itertools.chain([first], lines)
        while block := list(itertools.islice(lines, rows)):
            places, texts = zip(*block, strict=True)
            if delimiter != ",":
                texts = tuple(text.replace(",", ".") for text in texts)
            try:
                table = np.loadtxt(
                    texts, np.float32, delimiter=delimiter, comments=None, quotechar='"', ndmin=2
                )
            except ValueError:
                raise _bad_row(path, unnamed + columns, delimiter, block) from None
            if table.shape != (len(block), unnamed + columns):
                raise _bad_row(path, unnamed + columns, delimiter, block)
            yield _Rows(table[:, unnamed:], places)


def _open(path: Path) -> IO[str]:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return opened(path, "rt", encoding=encoding, errors="backslashreplace")


def _cells(line: str, delimiter: str | None) -> list[str]:
    line = line if delimiter == "," else line.replace(",", ".")
    return [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(delimiter)]


def _is_header(cells: list[str]) -> bool:
    """Return whether no cell is a number, or all numbers are those of the columns: 0, 1, 2 …"""
    offsets = set()
    for column, cell in enumerate(cells):
        with contextlib.suppress(ValueError):
            offsets.add(float(cell) - column)
    return len(cells) > 1 and (not offsets or offsets in ({-1}, {0}, {1}))


def _bad_row(
    path: Path, columns: int, delimiter: str | None, block: list[tuple[int, str]]
) -> Failure:
    """Return the failure for the first row that is not `columns` numbers."""
    for row, line in block:
        cells = _cells(line, delimiter)
        if len(cells) != columns:
            return Failure(f"{path}: row {row} has {len(cells)} columns, expected {columns}")
        for column, cell in enumerate(cells, 1):
            try:
                float(cell)
            except ValueError:
                return Failure(f"{path}: row {row}, column {column}: {cell[:20]!r} is not a number")
    return Failure(f"{path}: rows {block[0][0]} to {block[-1][0]} are not all numbers")


@contextlib.contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    """Open a Parquet file; whatever Arrow refuses meanwhile is a `Failure`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise Failure(
            f"{path}: reading Parquet needs pyarrow: pip install 'ecg-monitor[batch]'"
        ) from None
    try:
        # Without a buffer pyarrow loads whole column chunks, and a file may be a single row group
        with pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
            yield file
    except pa.ArrowException as error:
        raise Failure(f"{path}: not a readable Parquet file: {error}") from error
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error


def _parquet(path: Path, rows: int, groups: range | None = None) -> Iterator[_Rows]:
    """Return an iterator over the rows of all row groups, or of these.

    No block has rows of two row groups, so the blocks are the same whichever groups are read.
    """
    with _parquet_file(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        groups = range(len(sizes)) if groups is None else groups
        start = sum(sizes[: groups.start])
        for group in groups:
            # Threads of its own would decode the columns, and take them from the scoring
            for batch in file.iter_batches(rows, row_groups=[group], use_threads=False):
                yield _columns(path, start, batch)
                start += len(batch)


def _columns(path: Path, start: int, batch: Any) -> _Rows:
    import pyarrow as pa
    import pyarrow.compute as pc

    named = {name: batch.column(name) for name in ("device", "seq") if name in batch.schema.names}
    values: list[NDArray[np.float32]] = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if field.name in named:
            continue
        is_list = isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray)
        is_bytes = isinstance(
            column, pa.BinaryArray | pa.LargeBinaryArray | pa.FixedSizeBinaryArray
        )
        if not is_bytes:
            _refuse_unless_numbers(path, field, field.type.value_type if is_list else field.type)
        if column.null_count:
            row = start + column.is_null().to_numpy(zero_copy_only=False).argmax()
            raise Failure(f"{path}: row {row + 1}, column {field.name!r} is empty")
        if is_list:
            lengths = pc.list_value_length(column)
            _refuse_unless(SAMPLES, "a list of {} numbers", path, start, field, lengths)
            values.append(_float32(column.flatten()).reshape(-1, SAMPLES))
        elif is_bytes:
            lengths = pc.binary_length(column)
            _refuse_unless(BYTES, "{} bytes", path, start, field, lengths)
            values.append(_unpacked(column.cast(pa.binary(BYTES))))
        else:
            values.append(_float32(column)[:, None])
    nothing = np.empty((len(batch), 0), np.float32)
    table = values[0] if len(values) == 1 else np.hstack([nothing, *values])
    if table.shape[1] not in (SAMPLES, SAMPLES + 1):
        raise Failure(
            f"{path}: has {table.shape[1]} columns of numbers, "
            f"expected {SAMPLES}, or {SAMPLES + 1} with the label last"
        )
    devices = named["device"].cast(pa.string()) if "device" in named else None
    numbers = np.arange(start, start + len(batch))
    seq = _seq(path, start, named["seq"]) if "seq" in named else numbers
    return _Rows(table, range(start + 1, start + len(batch) + 1), devices, seq)


def _refuse_unless_numbers(path: Path, field: Any, kind: Any) -> None:
    import pyarrow as pa

    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    if not any(is_kind(kind) for is_kind in kinds):
        raise Failure(f"{path}: column {field.name!r} contains {field.type}, expected numbers")


def _refuse_unless(
    expected: int, what: str, path: Path, start: int, field: Any, lengths: Any
) -> None:
    wrong = lengths.to_numpy(zero_copy_only=False) != expected
    if wrong.any():
        row = int(wrong.argmax())
        raise Failure(
            f"{path}: row {start + row + 1}, column {field.name!r}: "
            f"{what.format(lengths[row])}, expected {expected}"
        )


def _unpacked(column: Any) -> NDArray[np.float32]:
    """Return beats of 560 bytes, float32 [n, 140]."""
    _, content = column.buffers()
    samples = np.frombuffer(content, "<f4", SAMPLES * len(column), BYTES * column.offset)
    return np.asarray(samples, np.float32).reshape(-1, SAMPLES)


def _float32(column: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float32)


def _seq(path: Path, start: int, column: Any) -> NDArray[np.int64]:
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        raise Failure(f"{path}: column 'seq' contains {column.type}, expected integers")
    if column.null_count:
        row = start + column.is_null().to_numpy(zero_copy_only=False).argmax()
        raise Failure(f"{path}: row {row + 1}, column 'seq' is empty")
    return np.asarray(column.cast(pa.int64()).to_numpy())
