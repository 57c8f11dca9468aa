"""The beat in the terminal, and the line beside it."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from monitor.alarms import messages
from monitor.batch import datasets
from monitor.commands.drawing import HEIGHT, WIDTH, draw
from monitor.commands.watch import headline, show

SINE = np.sin(np.arange(140) / 140 * 2 * np.pi).tolist()


def rows(text: object) -> list[str]:
    return str(text).splitlines()


def dots(lines: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """The drawing as its dots [4 × HEIGHT, 2 × WIDTH]."""
    places = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
    grid = np.zeros((4 * HEIGHT, 2 * WIDTH), np.bool_)
    for y, line in enumerate(lines):
        for x, character in enumerate(line):
            for bit, (down, right) in enumerate(places):
                grid[4 * y + down, 2 * x + right] = ord(character) - 0x2800 >> bit & 1
    return grid


SAMPLES = st.lists(st.floats(-1e300, 1e300), min_size=140, max_size=140)


@given(st.just(SINE) | SAMPLES, st.none() | st.just(SINE) | SAMPLES)
def test_any_beat_is_drawn_within_its_frame(
    beat: list[float], reconstruction: list[float] | None
) -> None:
    lines = rows(draw(beat, reconstruction))
    assert len(lines) in (1, HEIGHT)
    assert all(len(line) == WIDTH for line in lines)
    assert all(0x2800 <= ord(character) < 0x2900 for line in lines for character in line)
    assert dots(lines).any(axis=0).all()  # every sample has a dot


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_curve_stands_where_its_samples_are(scale: float) -> None:
    grid = dots(rows(draw([scale * sample for sample in SINE], None)))
    top, bottom = int(np.argmax(SINE)), int(np.argmin(SINE))
    assert grid[0, top]
    assert grid[-1, bottom]
    centre = (grid * np.arange(4 * HEIGHT)[:, None]).sum(axis=0) / grid.sum(axis=0)
    assert np.abs(centre - (1 - np.array(SINE)) / 2 * (4 * HEIGHT - 1)).max() < 2


def test_what_is_flat_or_no_number_is_drawn_too() -> None:
    for level in (0.0, 5.0, -1e30):
        (line,) = rows(draw([level] * 140, None))  # and no empty lines above it
        assert dots([line]).sum() == 140
    assert len(rows(draw([float("nan"), float("inf")] * 70, None))) == HEIGHT
    assert len(rows(draw([float("-inf")] * 140, [float("nan")] * 140))) == HEIGHT


def test_red_is_where_the_reconstruction_is_far_off() -> None:
    other = list(SINE)
    other[60:70] = [2.0] * 10
    drawn = draw(SINE, other)
    red = {span.start % (WIDTH + 1) for span in drawn.spans if span.style == "bold red"}
    assert red == set(range(30, 35))
    assert not any(span.style == "bold red" for span in draw(SINE, SINE).spans)
    near = [sample + 0.05 for sample in SINE]
    assert not any(span.style == "bold red" for span in draw(SINE, near).spans)


def alert(**changed: object) -> messages.Alert:
    fields: dict[str, object] = {
        "id": "0" * 32,
        "device": "bed-7",
        "event": "raised",
        "kind": "anomaly",
        "priority": "medium",
        "time": "2026-11-21T12:00:00.250Z",
        "since": "2026-11-21T12:00:00.250Z",
        "score": 1.5,
        "threshold": 0.75,
        "beats_anomalous": 3,
        "beats_seen": 10,
        "model": "ecg",
        "beat": SINE,
        "reconstruction": SINE,
    }
    return messages.Alert(**{**fields, **changed})  # type: ignore[arg-type]


def shown(payload: bytes) -> str:
    file = io.StringIO()
    show(Console(file=file, width=60, highlight=False), payload)
    return file.getvalue()


def test_an_alert_is_a_line_and_its_beat() -> None:
    lines = shown(messages.encode(alert())).splitlines()
    assert lines[0].startswith("12:00:00.250 ▲ raised")
    for part in ("anomaly", "medium", "bed-7", "3 of 10 beats", "score 1.5 (threshold 0.75)"):
        assert part in lines[0]
    assert len(lines) == 1 + HEIGHT and max(map(len, lines[1:])) == 60  # as narrow as the terminal
    assert len(shown(messages.encode(alert(event="cleared"))).splitlines()) == 1
    silent = shown(
        messages.encode(
            alert(kind="silent", beat=None, reconstruction=None, score=None, beats_seen=0)
        )
    )
    assert len(silent.splitlines()) == 1
    assert "score" not in silent
    assert "beats" not in silent


@pytest.mark.parametrize("name", ["[bold red]x[/]", "[/]", "\\[x]", "a]b[", "心"])
def test_a_name_is_shown_as_it_is(name: str) -> None:
    assert name in shown(messages.encode(alert(device=name, beat=None)))
    assert name in headline(alert(device=name)).plain


def test_an_alert_of_the_rhythm_says_what_it_is_about() -> None:
    slow = alert(kind="bradycardia", heart_rate=38.4, score=None, beats_seen=0)
    assert "bed-7  38/min" in headline(slow).plain
    still = alert(kind="asystole", pause_s=5.21, score=None, beats_seen=0)
    assert "bed-7  pause 5.2 s" in headline(still).plain


@pytest.mark.parametrize("payload", [b"", b"[1]", b"{}", b"\xff", b'{"id": [/bold]}'])
def test_what_is_no_alert_is_said_to_be_none(payload: bytes) -> None:
    assert shown(payload).startswith("not an alert: ")


def test_real_beats_are_drawn(ecg: datasets.Beats) -> None:
    drawings = {str(draw(beat.tolist(), None)) for beat in ecg.beats[:100]}
    assert len(drawings) == 100
