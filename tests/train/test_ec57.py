"""The tables of EC57, held to examples worked by hand from the descriptions of bxb, rxr, sumstats.

Times are in milliseconds: a rate of 1000 Hz, a match window of 150 samples, and records that are
judged from their first second unless it is said otherwise.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from train.evaluation import ec57
from train.evaluation.ec57 import Annotations, Comparison

RATE = 1000.0


def annotations(
    beats: str, begin: int = 2000, every: int = 800, **intervals: object
) -> Annotations:
    """Beats at regular times, a letter each; a dot is a beat that is not there."""
    at = [begin + every * i for i, letter in enumerate(beats) if letter != "."]
    labels = [letter for letter in beats if letter != "."]
    spans = {name: np.array(rows, np.int64) for name, rows in intervals.items()}
    return Annotations(np.array(at, np.int64), np.array(labels, "<U1"), **spans)


def moved(side: Annotations, by: int) -> Annotations:
    return side._replace(positions=side.positions + by)


def compare(reference: Annotations, test: Annotations, start: float = 1.0) -> Comparison:
    return ec57.compare(reference, test, RATE, duration=100.0, start=start)


def cell(comparison: Comparison, pair: str) -> int:
    return int(comparison.beats[ec57.LABELS.index(pair[0]), ec57.LABELS.index(pair[1])])


# Beat by beat


def test_beats_within_150_ms_match_and_beyond_it_do_not() -> None:
    reference = annotations("NNNNN")
    assert cell(compare(reference, moved(reference, 150)), "NN") == 5
    assert cell(compare(reference, moved(reference, -150)), "NN") == 5
    apart = compare(reference, moved(reference, 151))
    assert (cell(apart, "NN"), cell(apart, "NO"), cell(apart, "ON")) == (0, 5, 5)


def test_a_label_that_differs_is_a_pair_off_the_diagonal() -> None:
    counts = compare(annotations("NVSFQ"), annotations("VNVVN"))
    assert [cell(counts, pair) for pair in ("NV", "VN", "SV", "FV", "QN")] == [1, 1, 1, 1, 1]
    assert counts.beats.sum() == 5


def test_a_missed_beat_is_paired_with_o_and_so_is_an_extra_one() -> None:
    counts = compare(annotations("NVNNN"), annotations("N.NNN"))
    assert (cell(counts, "NN"), cell(counts, "VO")) == (4, 1)
    counts = compare(annotations("N.NNN"), annotations("NVNNN"))
    assert (cell(counts, "NN"), cell(counts, "OV")) == (4, 1)


def test_of_two_beats_found_for_one_the_nearer_is_paired() -> None:
    # 1 880 is within the window of 2 000, but 2 020 is nearer: 1 880 is an extra beat.
    pairs = ec57.match([2000], [1880, 2020], first=1000, end=9000, within=150)
    assert pairs == [(None, 0), (0, 1)]
    pairs = ec57.match([2000], [1980, 2120], first=1000, end=9000, within=150)
    assert pairs == [(0, 0), (None, 1)]
    # At the same distance the first is not nearer than the second, so it is the extra one.
    assert ec57.match([2000], [1900, 2100], 1000, 9000, 150) == [(None, 0), (0, 1)]


def test_of_two_reference_beats_for_one_found_the_nearer_is_paired() -> None:
    assert ec57.match([1880, 2020], [2000], 1000, 9000, 150) == [(0, None), (1, 0)]
    assert ec57.match([1980, 2120], [2000], 1000, 9000, 150) == [(0, 0), (1, None)]


def test_every_beat_is_paired_once() -> None:
    # Twice as many found as there are: half of them are extra.
    reference = np.arange(2000, 8000, 500)
    test = np.arange(2000, 8000, 250)
    pairs = ec57.match(reference, test, 1000, 9000, 150)
    assert sorted(i for i, _ in pairs if i is not None) == list(range(12))
    assert sorted(k for _, k in pairs if k is not None) == list(range(24))
    assert sum(i is not None and k is not None for i, k in pairs) == 12


def test_the_learning_period_is_not_judged() -> None:
    counts = compare(annotations("NNNNN"), annotations("VVVVV"), start=3.0)  # from 3 600 on
    assert cell(counts, "NV") == counts.beats.sum() == 3


def test_a_beat_at_the_border_may_be_found_on_either_side_of_it() -> None:
    # The first beat judged, at 3 010, was found at 2 980, before judging began.
    assert ec57.match([2200, 3010, 3800], [2200, 2980, 3800], 3000, 9000, 150) == [(1, 1), (2, 2)]
    # One before the border, at 2 980, was found at 3 010: neither counts.
    assert ec57.match([2200, 2980, 3800], [2200, 3010, 3800], 3000, 9000, 150) == [(2, 2)]
    # Beyond the window of the border it is an extra beat.
    assert ec57.match([2200, 3800], [2200, 3160, 3800], 3000, 9000, 150) == [(None, 1), (1, 2)]


def test_no_beat_beyond_the_end_is_judged() -> None:
    assert ec57.match([2000, 9001], [2000, 9001], 1000, 9000, 150) == [(0, 0)]
    # One side's at the end, the other's just after it, are a pair.
    assert ec57.match([2000, 8990], [2000, 9010], 1000, 9000, 150) == [(0, 0), (1, 1)]


def test_no_beats_on_one_side() -> None:
    nothing = Annotations(np.empty(0, np.int64), np.empty(0, "<U1"))
    assert cell(compare(annotations("NNN"), nothing), "NO") == 3
    assert cell(compare(nothing, annotations("NNN")), "ON") == 3
    assert compare(nothing, nothing).beats.sum() == 0


def test_beats_in_fibrillation_do_not_count() -> None:
    # From 3 500 to 5 500: what is found at 3 600, 4 400 and 5 200 is neither right nor wrong.
    reference = annotations("NN...NN", fibrillation=[[3500, 5500]])
    counts = compare(reference, annotations("NNNVNNN"))
    assert cell(counts, "NN") == counts.beats.sum() == 4
    # A detector that calls a beat fibrillation has missed it, all the same.
    counts = compare(annotations("NNN"), annotations("N.N", fibrillation=[[2700, 3000]]))
    assert cell(counts, "NO") == 1


def test_beats_in_a_shutdown_are_paired_with_x() -> None:
    counts = compare(annotations("NN.NN", unreadable=[[3000, 4300]]), annotations("NNNNN"))
    assert (cell(counts, "NN"), cell(counts, "XN")) == (4, 1)
    counts = compare(annotations("NNVNN"), annotations("NN.NN", unreadable=[[3000, 4300]]))
    assert (cell(counts, "NN"), cell(counts, "VX")) == (4, 1)
    shares = counts.shares()
    assert shares["Q Se"] == (4, 5)  # a beat missed in a shutdown is a beat missed
    assert shares["V Se"] == (0, 1)


def test_the_statistics_of_a_matrix() -> None:
    beats = np.array(
        # n    s   v  f  q  o  x
        [
            [900, 7, 5, 2, 1, 4, 1],  # N
            [20, 30, 6, 0, 0, 3, 0],  # S
            [8, 2, 80, 1, 1, 6, 2],  # V
            [3, 1, 9, 0, 0, 1, 0],  # F
            [2, 1, 4, 0, 5, 1, 0],  # Q
            [10, 2, 3, 0, 1, 0, 0],  # O
            [1, 1, 1, 0, 0, 0, 0],  # X
        ]
    )
    shares = Comparison(beats, {}).shares()
    assert shares["Q Se"] == (1088, 1088 + 18)
    assert shares["Q +P"] == (1088, 1088 + 19)
    assert shares["V Se"] == (80, 100)
    # N, S, O and X called V are false; F and Q called V are not: 5 + 6 + 3 + 1.
    assert shares["V +P"] == (80, 95)
    # All that is not V and was not called V, but for what was missed.
    negatives = (900 + 7 + 2 + 1) + (20 + 30) + (3 + 1) + (2 + 1 + 5) + (10 + 2 + 1) + 2
    assert shares["V FPR"] == (15, 15 + negatives)
    assert shares["S Se"] == (30, 59)
    # N, V, F, O and X called S are false; Q is not: 7 + 2 + 1 + 2 + 1.
    assert shares["S +P"] == (30, 43)
    negatives = (900 + 5 + 2 + 1) + (8 + 80 + 1 + 1) + (3 + 9) + (2 + 4 + 5) + (10 + 3 + 1) + 2
    assert shares["S FPR"] == (13, 13 + negatives)


def test_beats_out_of_order_and_labels_of_other_schemes_are_refused() -> None:
    good = annotations("NN")
    with pytest.raises(ValueError, match="test: positions must ascend"):
        compare(good, good._replace(positions=good.positions[::-1]))
    with pytest.raises(ValueError, match=r"reference: labels \['A'\], allowed are N, S, V, F"):
        compare(good._replace(labels=np.array(["N", "A"])), good)


# Run by run

Runs = dict[tuple[int, int], int]


def runs(reference: Annotations, test: Annotations, kind: ec57.Ectopic = "V") -> tuple[Runs, Runs]:
    """Both matrices of runs as {(reference's length, test's length): count}."""
    counts = compare(reference, test).runs[kind]
    first, second = ({(int(i), int(j)): int(c[i, j]) for i, j in np.argwhere(c)} for c in counts)
    return first, second


def test_runs_of_the_same_length() -> None:
    both = annotations("NVNVVNVVVNVVVVVNVVVVVVVVN")
    expected = {(1, 1): 1, (2, 2): 1, (3, 3): 1, (5, 5): 1, (6, 6): 1}
    assert runs(both, moved(both, 40)) == (expected, expected)


def test_a_run_of_which_a_part_was_found() -> None:
    of_reference, of_test = runs(annotations("NVVVVNNN"), annotations("NVVNVNNN"))
    assert of_reference == {(4, 2): 1}  # a short run, missed as such
    # Within the window of the couplet lies a run of two of the reference, within that of the last
    # beat one of one: rxr looks no further than 150 ms beyond the run that it was asked about.
    assert of_test == {(2, 2): 1, (1, 1): 1}


def test_a_run_that_is_not_there() -> None:
    of_reference, of_test = runs(annotations("NNNNNN"), annotations("NVVVNN"))
    assert (of_reference, of_test) == ({}, {(0, 3): 1})


def test_a_fusion_beat_belongs_to_a_ventricular_run() -> None:
    of_reference, _ = runs(annotations("NVFVNN"), annotations("NVVVNN"))
    assert of_reference == {(3, 3): 1}


def test_a_supraventricular_beat_ends_a_ventricular_run_and_the_other_way_about() -> None:
    both = annotations("NVVSSVN")
    assert runs(both, both, "V")[0] == {(2, 2): 1, (1, 1): 1}
    assert runs(both, both, "S")[0] == {(2, 2): 1}


def test_a_missed_normal_beat_joins_two_runs() -> None:
    of_reference, of_test = runs(annotations("NVVNVVNN"), annotations("NVV.VVNN"))
    assert of_reference == {(2, 2): 2}
    assert of_test == {(2, 4): 1}


def test_a_run_that_no_other_beat_ends_is_not_counted() -> None:
    both = annotations("NNVVV")
    assert runs(both, both) == ({}, {})


def test_fibrillation_is_a_long_run() -> None:
    reference = annotations("NN....NN", fibrillation=[[3500, 6500]])
    none, some = annotations("NN....NN"), annotations("NNVVVVNN")
    assert runs(reference, none)[0] == {(6, 0): 1}
    assert runs(reference, some) == ({(6, 4): 1}, {(6, 4): 1})
    found = annotations("NN....NN", fibrillation=[[3700, 6700]])
    assert runs(reference, found) == ({(6, 6): 1}, {(6, 6): 1})


def test_fibrillation_that_began_in_the_learning_period() -> None:
    reference = annotations("NNN", begin=3000, fibrillation=[[500, 2500]])
    assert runs(reference, annotations("VVNNN", begin=1400))[0] == {(6, 2): 1}


def test_a_shutdown_ends_a_run() -> None:
    both = annotations("NVV.VVNN", unreadable=[[4000, 4900]])
    assert runs(both, both)[0] == {(2, 2): 2}


def test_atrial_fibrillation_is_a_long_supraventricular_run() -> None:
    reference = annotations("NNNNNNNN", atrial=[[3500, 6500]])  # from the third beat to the sixth
    assert runs(reference, annotations("NNNNNNNN"), "S")[0] == {(6, 0): 1}
    assert runs(reference, annotations("NNSSSSNN"), "S") == ({(6, 4): 1}, {(6, 4): 1})
    assert cell(compare(reference, annotations("NNNNNNNN")), "NN") == 8  # beat by beat they are N


def test_the_statistics_of_runs() -> None:
    reference = annotations("NVVNVVNVVVNVVVVVVVN")
    test = annotations("NVVNVNNVVVNVVVVVNVN")
    shares = compare(reference, test).shares()
    assert shares["VC Se"] == (1, 2)
    assert shares["VC +P"] == (1, 1)
    assert shares["VS Se"] == (1, 1)
    assert shares["VS +P"] == (2, 2)  # of five, within a run of the reference of seven
    assert shares["VL Se"] == (0, 1)
    assert shares["VL +P"] == (0, 0)
    assert np.isnan(shares["VL +P"].value)


# All records


def test_gross_counts_beats_and_average_counts_records() -> None:
    good = compare(annotations("NNNNNNNNVN"), annotations("NNNNNNNNVN"))
    poor = compare(annotations("NNNN"), annotations("N..N"))
    assert ec57.gross([good, poor])["Q Se"] == 12 / 14
    assert ec57.average([good, poor])["Q Se"] == (1 + 0.5) / 2
    assert ec57.average([good, poor])["V Se"] == 1  # over the one record that has any
    assert np.isnan(ec57.average([poor])["V Se"])


def test_the_tables_have_a_row_for_each_record_gross_and_average() -> None:
    good = compare(annotations("NNNVVN"), annotations("NNNVVN"))
    poor = compare(annotations("NNNNVN"), annotations("NVN.NN"))
    console = Console(width=160, record=True, file=io.StringIO())
    beats, ventricular, supraventricular = ec57.tables({"100": good, "101": poor})
    console.print(beats)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["gross", "12", "3", "0", "91.67", "100.00", "66.67", "66.67", "12.500", "-", "-",
            "0.000"] in lines  # fmt: skip
    assert ["100", "6", "2", "0", "100.00", "100.00", "100.00", "100.00", "0.000", "-", "-",
            "0.000"] in lines  # fmt: skip
    assert any(line and line[0] == "average" for line in lines)
    assert ventricular.row_count == supraventricular.row_count == 4


# Where annotations come from


def test_labels_of_a_detector_that_says_what_a_beat_is() -> None:
    yes, no = np.array([True]), np.array([False])
    both = np.concatenate([yes, no, yes, no])
    early = np.concatenate([no, yes, yes, no])
    believed = np.concatenate([yes, yes, no, yes])
    assert ec57.classified(both, early, believed).tolist() == ["V", "S", "Q", "N"]


@pytest.mark.filterwarnings("ignore")  # wfdb's, when it writes
def test_annotations_of_a_record(tmp_path: Path) -> None:
    import wfdb

    marks = [
        (100, "+", "(N"), (120, "N", ""), (400, "V", ""), (500, "[", ""), (700, "!", ""),
        (900, "]", ""), (1000, "e", ""), (1100, "+", "(AFIB"), (1150, "N", ""),
        (1400, "/", ""), (1450, "+", "(AFL"), (1600, "N", ""), (1700, "+", "(N"), (2000, "x", ""),
    ]  # fmt: skip
    at, codes, notes = zip(*marks, strict=True)
    wfdb.wrann("made", "atr", np.array(at), list(codes), aux_note=list(notes), fs=360,
               write_dir=str(tmp_path))  # fmt: skip
    read = ec57.read(tmp_path / "made.atr", 360)
    assert read.positions.tolist() == [120, 400, 1000, 1150, 1400, 1600]
    assert read.labels.tolist() == ["N", "V", "S", "N", "Q", "N"]
    assert read.fibrillation.tolist() == [[500, 900]]
    assert read.atrial.tolist() == [[1100, 1700]]
    assert read.unreadable.tolist() == []
    assert read.paced.tolist() == [1400]
    assert ec57.read(tmp_path / "made.atr", 180).positions.tolist() == [60, 200, 500, 575, 700, 800]


@pytest.mark.filterwarnings("ignore")  # wfdb's, when it writes
def test_a_shutdown_of_a_record(tmp_path: Path) -> None:
    import wfdb

    for name, last in (("ended", ["~", 0]), ("unended", ["N", 0])):
        wfdb.wrann(name, "atr", np.array([100, 500, 900]), ["N", "~", last[0]],
                   subtype=np.array([0, 48, last[1]]), fs=360, write_dir=str(tmp_path))  # fmt: skip
    assert ec57.read(tmp_path / "ended.atr", 360).unreadable.tolist() == [[500, 900]]
    # Without an end: from 150 ms after the beat before it to 150 ms before what follows.
    assert ec57.read(tmp_path / "unended.atr", 360).unreadable.tolist() == [[154, 846]]
