"""The report on a recording: what it says of a heart that is known, and that it can be opened."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from monitor.alarms import trends
from monitor.commands import report as command
from monitor.ecg import records
from monitor.errors import UsageError
from monitor.report import recording
from monitor.report.content import Content, Event
from monitor.report.page import page
from monitor.settings import Settings
from tests.harness import signals

RATE = 250
PAUSE = 7.0


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A heart of five minutes that pauses after two and is fast in the fourth."""
    folder = tmp_path_factory.mktemp("report")
    parts = [
        signals.heart(120, RATE, 75)[0],
        0.01 * np.random.default_rng(1).standard_normal(round(PAUSE * RATE)),
        signals.heart(60, RATE, 75, seed=2)[0],
        signals.heart(60, RATE, 160, seed=3)[0],
        signals.heart(53, RATE, 75, seed=4)[0],
    ]
    signal = np.concatenate(parts)
    signals.write(folder, "heart", RATE, {"II": signal, "V1": 0.5 * signal})
    return folder / "heart"


@pytest.fixture(scope="module")
def content(record: Path) -> Content:
    return recording.report(records.read(record), "heart", Settings())


def test_a_pause_and_a_fast_heart_are_told(content: Content) -> None:
    serious = [each for each in content.events if each.priority != "low"]
    assert [each.kind for each in serious] == ["asystole", "tachycardia"]
    asystole, tachycardia = serious
    assert asystole.begin == pytest.approx(120, abs=1.5)
    assert asystole.end is not None and 5 < asystole.end - asystole.begin < 20
    assert tachycardia.heart_rate is not None and 135 <= tachycardia.heart_rate <= 165
    assert content.longest_pause is not None
    assert PAUSE < content.longest_pause[0] < PAUSE + 1.8  # with the pieces' own edges
    rates = {round(each.time / 60): each.mean for each in content.minutes}
    assert rates[0] == pytest.approx(75, abs=2)
    assert rates[4] == pytest.approx(75, abs=25)
    assert len(content.minutes) == 5
    assert content.shaped is False and "No model of this heart" in content.notes[0]


def test_the_signal_of_an_event_is_drawn_around_it(content: Content) -> None:
    strip = content.events[0].strip
    assert strip is not None and list(strip.leads) == ["II", "V1"]
    assert len(strip.leads["II"]) == 20 * RATE
    assert strip.begin < content.events[0].begin < strip.begin + 20
    before = [letter for time, letter in strip.marks if time < content.events[0].begin + 0.1]
    assert len(before) >= 5 and set(before) == {"N"}


def test_hours_cut_side_by_side_are_the_whole(
    content: Content, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PART", 100)
    parts = recording.report(records.read(record), "heart", Settings())
    assert parts.minutes == content.minutes

    def told(events: list[Event]) -> list[tuple[str, float, float | None]]:
        return [(each.kind, each.begin, each.end) for each in events]

    assert told(parts.events) == told(content.events)


class Reader(HTMLParser):
    """Collects the names of the elements, and what is open at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, _attrs: object) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_nothing_from_outside_is_markup(content: Content) -> None:
    before, content.title = content.title, "<script>alert(1)</script>"
    try:
        text = page(content)
    finally:
        content.title = before
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert "script" not in reader.seen
    assert reader.seen.count("article") == sum(each.strip is not None for each in content.events)
    for said in ("Longest pause", "asystole", "tachycardia", "Not a medical device", "0:02:0"):
        assert said in reader.text
    assert "Burden on people" not in reader.text


def test_the_command_writes_one_file(record: Path, tmp_path: Path) -> None:
    out = tmp_path / "heart.html"
    command.of_recording(record, Settings(), None, out)
    text = out.read_text()
    assert text.startswith("<!doctype html>")
    assert "src=" not in text and 'href="http' not in text
    with pytest.raises(UsageError, match=r"no WFDB record and no EDF file has this name"):
        command.of_recording(tmp_path / "none.txt", Settings(), None, None)


def test_rates_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(5)
    rr = random.uniform(400, 1500, 100).tolist()
    means = [sum(rr[i : i + 8]) / 8 for i in range(93)]
    expected = 60_000 / max(means), 60_000 / (sum(rr) / 100), 60_000 / min(means)
    assert trends.rates(rr) == pytest.approx(expected, abs=0.06)
    assert trends.rates([0.0, 0.0]) is None


def test_runs_are_found_from_end_to_end() -> None:
    assert trends.runs(np.array([True] * 3 + [False] + [True] * 2 + [False] + [True] * 4), 3) == [
        (0, 3),
        (7, 11),
    ]


@pytest.mark.parametrize(
    ("line", "begin"),
    [
        ("x 1 250 1000", None),
        ("x 1 250 1000 12:00:00", None),
        ("x 1 250 1000 12:00:00 26/11/2026", 1795694400.0),
        ("x 1 250(0) 1000 12:00:00.500 26/11/2026", 1795694400.5),
        ("x 1 250 1000 noon today", None),
        ("", None),
    ],
)
def test_a_record_says_when_it_began(tmp_path: Path, line: str, begin: float | None) -> None:
    (tmp_path / "x.hea").write_text(f"# a comment\n{line}\nx.dat 16 200 16 0 0 0 0 II\n")
    assert records.begin(tmp_path / "x") == begin


@pytest.mark.parametrize(
    ("stamp", "begin"), [("26.11.2612.00.00", 1795694400.0), ("01.01.8500.00.00", None)]
)
def test_an_edf_says_when_it_began(tmp_path: Path, stamp: str, begin: float | None) -> None:
    file = tmp_path / "x.edf"
    file.write_bytes(b"0".ljust(168) + stamp.encode() + b" " * 72)
    assert records.begin(file) == begin
