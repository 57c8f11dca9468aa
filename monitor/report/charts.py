"""The pictures of a report, as SVG: signal on millimetre paper, and trends over hours."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.alarms.trends import Minute
from monitor.report.content import Content, Event, Strip

SPEED: Final = 25.0
GAIN: Final = 10.0
"""Millimetres a second, and millimetres a millivolt: the usual scale of ECG paper."""

ROW: Final = 10.0
"""Seconds in a row of paper: 250 mm, as wide as a page of A4 lies."""

LOWEST, HIGHEST = 20.0, 45.0
"""Millimetres that a lead's row is high: what exceeds it is cut off, and said to be."""

DRAWN: Final = 125.0
"""Points a second: five a millimetre, finer than a printed line."""

WIDTH, LEFT = 1000, 46
"""Of a trend, and of the room for its axis: the page scales it."""


def strip(strip: Strip, begin: float, clock: Callable[[float], str]) -> str:
    """Return the signal of a strip on millimetre paper, ten seconds in a row.

    Args:
        strip: the signal.
        begin: when its event was raised, in seconds since 1970: marked by a line.
        clock: writes a time.
    """
    length = max(len(samples) for samples in strip.leads.values()) / strip.rate
    rows = []
    for start in np.arange(0, length - 0.5, ROW).tolist():
        rows += [
            _row(strip, name, samples, start, begin, first=i == 0)
            for i, (name, samples) in enumerate(strip.leads.items())
        ]
    said = f"Signal from {clock(strip.begin)}, 25 mm/s, 10 mm/mV"
    return f'<figure class="strip">{"".join(rows)}<figcaption>{escape(said)}</figcaption></figure>'


def _row(
    strip: Strip, name: str, samples: NDArray[np.float64], start: float, begin: float, first: bool
) -> str:
    step = max(1, round(strip.rate / DRAWN))
    own = samples[round(start * strip.rate) : round((start + ROW) * strip.rate) : step]
    finite = own[np.isfinite(own)]
    middle = float(np.median(finite)) if len(finite) else 0.0
    reach = float(np.abs(finite - middle).max()) if len(finite) else 0.0
    height = float(np.clip(2.2 * GAIN * reach + 6, LOWEST, HIGHEST))
    height = 5 * round(height / 5)
    y = np.clip(height / 2 - GAIN * (own - middle), 0, height)
    marks = ""
    if first:
        marks = "".join(
            f'<text class="{letter}" x="{SPEED * (time - strip.begin - start):.1f}" y="3">'
            f"{letter}</text>"
            for time, letter in strip.marks
            if start <= time - strip.begin < start + ROW
        )
    at = begin - strip.begin - start
    told = ""
    if 0 <= at < ROW:
        told = f'<path class="told" d="M{SPEED * at:.1f} 0V{height}"/>'
    width = SPEED * ROW
    label = f'<text class="lead" x="1" y="{height - 1.5}">{escape(name)}</text>' if name else ""
    return (
        f'<svg class="paper" viewBox="0 0 {width:g} {height}" '
        f'style="width:{width:g}mm;height:{height}mm" role="img" '
        f'aria-label="{escape(name or "signal")} from second {start:g}">'
        f'<rect width="100%" height="100%" fill="url(#mm)"/>{told}'
        f'<path class="ecg" d="{_path(y, SPEED * step / strip.rate)}"/>{marks}{label}</svg>'
    )


def _path(y: NDArray[np.float64], dx: float) -> str:
    """Return a line through points `dx` apart, with a gap where one is NaN."""
    commands, pen = [], "M"
    for i, value in enumerate(y.tolist()):
        if math.isnan(value):
            pen = "M"
            continue
        commands.append(f"{pen}{i * dx:.1f} {value:.1f}")
        pen = "L"
    return "".join(commands)


def trend(content: Content, clock: Callable[[float], str]) -> str:
    """Return heart rate, abnormal beats, quality and events of a report over its time."""
    if not content.minutes:
        return ""
    span = max(content.end - content.begin, 60.0)

    def x(time: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * (time - content.begin) / span

    ticks = _ticks(content.begin, content.end)
    parts = [_rates(content.minutes, x, content.end), _events(content.events, x, content.end)]
    parts.append(_bars(content, x))
    grid = "".join(
        f'<path class="grid" d="M{x(t):.1f} 10V330"/>'
        f'<text x="{x(t):.1f}" y="346" text-anchor="middle">{escape(clock(t))}</text>'
        for t in ticks
    )
    return (
        f'<figure><svg class="trend" viewBox="0 0 {WIDTH} 352" role="img" '
        f'aria-label="Heart rate, alarms and abnormal beats over time">{grid}{"".join(parts)}</svg>'
        "<figcaption>Heart rate in beats a minute, each minute's mean and its range over eight "
        "beats; alarms; ventricular (red), other anomalous (ochre) and unreadable beats (grey)."
        "</figcaption></figure>"
    )


def _ticks(begin: float, end: float) -> list[float]:
    steps = (60, 300, 600, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
    step = next((each for each in steps if (end - begin) / each <= 12), 7 * 86400)
    first = -(-begin // step) * step
    return [first + i * step for i in range(int((end - first) // step) + 1)]


def _rates(minutes: Sequence[Minute], x: Callable[[float], float], end: float) -> str:
    known = [each for each in minutes if each.mean is not None]
    if not known:
        return ""
    top = max(each.high or 0.0 for each in known)
    top = max(120.0, 20.0 * -(-min(top, 300.0) // 20))

    def y(rate: float) -> float:
        return 190 - 170 * (min(rate, top) - 20) / (top - 20)

    lines = "".join(
        f'<path class="grid" d="M{LEFT} {y(rate):.1f}H{WIDTH - 8}"/>'
        f'<text x="{LEFT - 6}" y="{y(rate) + 4:.1f}" text-anchor="end">{rate:g}</text>'
        for rate in np.arange(40, top + 1, 40 if top > 160 else 20).tolist()
    )
    band = "".join(
        f"M{x(min(each.time + 30, end)):.1f} {y(each.low or 0):.1f}V{y(each.high or 0) - 0.5:.1f}"
        for each in known
    )
    mean, before = "", None
    for each in known:
        pen = "L" if before is not None and each.time - before < 90 else "M"
        mean += f"{pen}{x(min(each.time + 30, end)):.1f} {y(each.mean or 0):.1f}"
        before = each.time
    wide = max(1.0, x(minutes[0].time + 60) - x(minutes[0].time))
    return (
        f'{lines}<path class="band" stroke-width="{wide:.1f}" d="{band}"/>'
        f'<path class="mean" d="{mean}"/>'
    )


def _events(events: Sequence[Event], x: Callable[[float], float], end: float) -> str:
    return f'<text x="{LEFT - 6}" y="216" text-anchor="end">alarms</text>' + "".join(
        f'<rect class="{each.priority}" x="{x(each.told):.1f}" y="200" height="24" '
        f'width="{max(2.0, x(end if each.end is None else each.end) - x(each.told)):.1f}">'
        f"<title>{escape(each.kind)}</title></rect>"
        for each in events
    )


def _bars(content: Content, x: Callable[[float], float]) -> str:
    """Return bars: ventricular and other anomalous beats, and beside them those of no use."""
    width = 3600 if content.end - content.begin > 6 * 3600 else 300
    counts: dict[float, list[int]] = {}
    for each in content.minutes:
        bar = counts.setdefault(each.time // width * width, [0, 0, 0])
        for i, count in enumerate((each.ventricular, each.anomalous, each.poor)):
            bar[i] += count
    top = max(10, *(max(v + a, p) for v, a, p in counts.values()))
    bars = [
        f'<text x="{LEFT - 6}" y="254" text-anchor="end">{top}</text>'
        f'<text x="{LEFT - 6}" y="330" text-anchor="end">0</text>'
    ]
    for time, (ventricular, anomalous, poor) in counts.items():
        left = x(max(time, content.begin))
        wide = x(min(time + width, content.end)) - left - 1
        low = 330.0
        for name, count in (("V", ventricular), ("A", anomalous)):
            low -= 80 * count / top
            bars.append(_bar(name, left, low, 0.6 * wide, 80 * count / top))
        height = 80 * poor / top
        bars.append(_bar("P", left + 0.65 * wide, 330 - height, 0.3 * wide, height))
    return "".join(bars)


def _bar(name: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" '
        f'height="{height:.1f}"/>'
    )
