"""Write a report as one HTML file that needs nothing else, and prints well."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final

from monitor import __version__
from monitor.alarms import burden
from monitor.alarms.kinds import KINDS
from monitor.alarms.messages import Kind
from monitor.alarms.trends import Minute, hours
from monitor.report import charts
from monitor.report.content import Content, Event

STYLE: Final = """
:root { --text: #14222b; --quiet: #52626c; --edge: #d8e0e3; --high: #b3202c; --medium: #8f5200;
  --low: #1c5f9e; --ventricular: #b3202c; --anomalous: #8f5200; --poor: #8a979e; --mean: #0a6b60 }
@page { size: A4 landscape; margin: 12mm }
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; color: var(--text); background: #fff;
  max-width: 273mm; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 1.6rem 0 .4rem }
h3 { font-size: 1rem; margin: 1rem 0 .2rem }
p { margin: .3rem 0 } .quiet, figcaption { color: var(--quiet); font-size: .85rem }
.note { border-left: 4px solid var(--medium); padding: .2rem .8rem; background: #fdf3e1 }
dl.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: .6rem; margin: .8rem 0 }
dl.figures div { border: 1px solid var(--edge); padding: .4rem .6rem }
dt { color: var(--quiet); font-size: .8rem } dd { margin: 0; font-size: 1.25rem; font-weight: 600 }
dd small { font-size: .8rem; font-weight: 400; color: var(--quiet) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .87rem }
th, td { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--edge) }
th:first-child, td:first-child, .text { text-align: left }
th { color: var(--quiet); font-weight: 600 }
figure { margin: .4rem 0; overflow-x: auto } svg { display: block }
.priority { font-weight: 700 } .priority.high { color: var(--high) }
.priority.medium { color: var(--medium) } .priority.low { color: var(--low) }
.paper { background: #fffafa; margin-bottom: 1px }
.paper .ecg { fill: none; stroke: #14222b; stroke-width: .3; stroke-linejoin: round }
.paper .told { stroke: var(--low); stroke-width: .4; stroke-dasharray: 1 1 }
.paper text { font-size: 3px; text-anchor: middle; fill: var(--quiet) }
.paper .lead { text-anchor: start; font-weight: 600 }
.paper .V { fill: var(--high); font-weight: 700 } .paper .A { fill: var(--medium) }
.trend { width: 100%; height: auto } .trend text { font-size: 12px; fill: var(--quiet) }
.trend .grid { stroke: var(--edge); fill: none } .trend .mean { stroke: var(--mean); fill: none;
  stroke-width: 1.5 } .trend .band { stroke: #b6dcd5; fill: none }
.trend .high { fill: var(--high) } .trend .medium { fill: #d08a1d } .trend .low { fill: var(--low) }
.trend .V { fill: var(--ventricular) } .trend .A { fill: #d08a1d } .trend .P { fill: var(--poor) }
article { break-inside: avoid; border-top: 1px solid var(--edge) }
@media print { body { padding: 0; max-width: none; font-size: 11px } h2 { break-after: avoid }
  figure { overflow: visible } }
"""

PAPER: Final = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="m1" width="1" height="1" patternUnits="userSpaceOnUse">'
    '<path d="M1 0H0V1" fill="none" stroke="#f3c9c9" stroke-width=".1"/></pattern>'
    '<pattern id="mm" width="5" height="5" patternUnits="userSpaceOnUse">'
    '<rect width="5" height="5" fill="url(#m1)"/>'
    '<path d="M5 0H0V5" fill="none" stroke="#e39a9a" stroke-width=".2"/></pattern></defs></svg>'
)

DISCLAIMER: Final = (
    "Not a medical device. Made by a program, without a person's eye: not for diagnosis or "
    "treatment."
)


def page(content: Content) -> str:
    """Return a report as HTML; everything that comes from outside is escaped."""
    clock = _clock(content)
    parts = [
        f"<h1>{escape(content.title)}</h1>",
        f"<p>{escape(_period(content))} <span class=quiet>· ecg-monitor {__version__}</span></p>",
        f"<p class=quiet>{DISCLAIMER}</p>",
        *(f"<p class=note>{escape(note)}</p>" for note in content.notes),
        "<h2>Summary</h2>",
        _summary(content, clock),
        "<h2>Trends</h2>",
        charts.trend(content, clock) or "<p>No beat was heard.</p>",
        "<h2>By the hour</h2>",
        _by_hour(content, clock),
        "<h2>Events</h2>",
        _events(content.events, clock),
        *([] if content.burden is None else ["<h2>Burden on people</h2>", _burden(content.burden)]),
        "<h2>How this was made</h2>",
        _table([], content.facts),
        *(["<h2>Signal</h2>", *_strips(content.events, clock)]),
    ]
    title = escape(content.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>ECG report: {title}</title><style>{STYLE}</style></head>\n"
        f"<body>{PAPER}\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _clock(content: Content) -> Callable[[float], str]:
    """Return what writes a time: the hour and minute of a date, or how far into the recording."""
    days = content.end - content.begin > 86400

    def dated(moment: float) -> str:
        form = "%d %b %H:%M:%S" if days else "%H:%M:%S"
        return time.strftime(form, time.gmtime(moment))

    def relative(moment: float) -> str:
        seconds = round(moment - content.begin)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    return dated if content.dated else relative


def _period(content: Content) -> str:
    lasts = _duration(content.end - content.begin)
    if not content.dated:
        return f"{lasts} of signal; times count from its beginning"
    begin, end = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
        for moment in (content.begin, content.end)
    )
    return f"{begin} to {end} UTC, {lasts}"


def _duration(seconds: float) -> str:
    """Return a duration as people say it.

    >>> _duration(5400)
    '1 h 30 min'
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return " ".join([*([f"{hours} h"] if hours else []), *([f"{minutes} min"] if minutes else [])])


def _summary(content: Content, clock: Callable[[float], str]) -> str:
    minutes = content.minutes
    beats = sum(each.beats for each in minutes)
    poor = sum(each.poor for each in minutes)
    known = [each for each in minutes if each.mean is not None]
    weights = [each.beats - each.poor for each in known]
    figures: list[tuple[str, str, str]] = [("Beats", f"{beats:,}", f"{poor:,} of poor quality")]
    if known and sum(weights):
        # Minutes weigh by their duration: beats a minute, averaged over beats, favours fast ones.
        lasting = sum(
            weight / (each.mean or 1) for weight, each in zip(weights, known, strict=True)
        )
        slowest = min(known, key=lambda minute: minute.low or 0)
        fastest = max(known, key=lambda minute: minute.high or 0)
        figures += [
            ("Heart rate, mean", f"{sum(weights) / lasting:.0f}", "beats a minute"),
            ("Heart rate, lowest", f"{slowest.low:.0f}", f"at {clock(slowest.time)}"),
            ("Heart rate, highest", f"{fastest.high:.0f}", f"at {clock(fastest.time)}"),
        ]
    if content.longest_pause:
        lasts, since = content.longest_pause
        figures.append(("Longest pause", f"{lasts:.1f} s", f"at {clock(since)}"))
    ventricular = sum(each.ventricular for each in minutes)
    anomalous = sum(each.anomalous for each in minutes)
    for what, count in (("Ventricular beats", ventricular), ("Other anomalous beats", anomalous)):
        said = (
            (f"{count:,}", _share(count, beats - poor)) if content.shaped else ("–", "not judged")
        )
        figures.append((what, *said))
    if content.longest_run and content.fastest_run:
        run = content.longest_run
        more = f"{run.rate:.0f} a minute, at {clock(run.begin)}"
        figures.append(("Longest run", str(run), more))
        run = content.fastest_run
        figures.append(("Fastest run", f"{run.rate:.0f} a minute", f"{run}, at {clock(run.begin)}"))
    figures.append(("Readable", _share(beats - poor, beats), "of the beats"))
    counted = Counter(each.kind for each in content.events)
    alarms = ", ".join(f"{counted[kind]} {kind}" for kind in KINDS if counted[kind]) or "none"
    figures.append(("Alarms", f"{len(content.events)}", alarms))
    return "<dl class=figures>{}</dl>".format(
        "".join(
            f"<div><dt>{escape(name)}</dt>"
            f"<dd>{escape(value)} <small>{escape(more)}</small></dd></div>"
            for name, value, more in figures
        )
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _by_hour(content: Content, clock: Callable[[float], str]) -> str:
    rows = []
    for hour in hours(content.minutes):
        begin = hour[0].time // 3600 * 3600
        known = [each for each in hour if each.mean is not None]
        told = [each for each in content.events if begin <= each.told < begin + 3600]
        rows.append(
            (
                clock(max(begin, content.begin)),
                f"{sum(each.beats for each in hour):,}",
                *_rates(known),
                f"{sum(each.ventricular for each in hour):,}" if content.shaped else "–",
                f"{sum(each.anomalous for each in hour):,}" if content.shaped else "–",
                f"{sum(each.poor for each in hour):,}",
                str(len(told)),
                _duration(_time_in_alarm(told, content.end)) if told else "",
            )
        )
    heads = ("From", "Beats", "Rate, lowest", "mean", "highest", "Ventricular", "Other anomalous")
    return _table((*heads, "Poor quality", "Alarms", "In alarm"), rows)


def _rates(known: Sequence[Minute]) -> tuple[str, str, str]:
    if not known:
        return "", "", ""
    mean = sum(each.mean or 0 for each in known) / len(known)
    low, high = min(each.low or 0 for each in known), max(each.high or 0 for each in known)
    return f"{low:.0f}", f"{mean:.0f}", f"{high:.0f}"


def _time_in_alarm(events: Iterable[Event], end: float) -> float:
    """Return for how many seconds at least one of these alarms stood."""
    total, until = 0.0, float("-inf")
    for each in sorted(events, key=lambda event: event.told):
        last = end if each.end is None else each.end
        total += max(0.0, last - max(each.told, until))
        until = max(until, last)
    return total


def _events(events: Sequence[Event], clock: Callable[[float], str]) -> str:
    if not events:
        return "<p>No alarm was raised.</p>"
    rows = [
        (
            f'<a href="#event-{i}">{clock(each.begin)}</a>' if each.strip else clock(each.begin),
            f'<span class="priority {each.priority}">{each.priority}</span>',
            _name(each.kind),
            _about(each),
            "goes on" if each.end is None else _duration(each.end - each.begin),
            escape(each.remark),
        )
        for i, each in enumerate(events)
    ]
    heads = ("Since", "Priority", "Kind", "", "Lasted", "Remarks")
    return _table(heads, rows, raw=True, text=True)


def _name(kind: Kind) -> str:
    return kind.replace("-", " ")


def _about(event: Event) -> str:
    if event.heart_rate is not None:
        return f"{event.heart_rate:.0f} beats a minute"
    return "" if event.pause_s is None else f"{event.pause_s:.1f} s"


def _burden(measured: burden.Burden) -> str:
    """Return what the alarms of one device asked of people: it has no worst devices."""
    if measured.empty:
        return "<p>Nobody was alerted.</p>"
    return (
        "<p class=quiet>Alarms that were announced in this period; one that escalated counts "
        "twice. ISA-18.2 sets its limits for all the devices together that the same people "
        "answer.</p>" + _table(("", "Measured", "Acceptable"), burden.lines(measured), text=True)
    )


def _strips(events: Sequence[Event], clock: Callable[[float], str]) -> Iterable[str]:
    shown = [(i, each) for i, each in enumerate(events) if each.strip is not None]
    if not shown:
        yield "<p>No signal is kept of these events.</p>"
        return
    if len(shown) < len(events):
        yield (
            f"<p class=quiet>{len(shown)} of {len(events)} events, the most serious first chosen."
            "</p>"
        )
    yield (
        "<p class=quiet>N: normal, V: ventricular, A: another anomalous beat. The dashed line is "
        "where the alarm was raised.</p>"
    )
    for i, each in shown:
        assert each.strip is not None
        yield (
            f'<article id="event-{i}"><h3>{clock(each.begin)} '
            f'<span class="priority {each.priority}">{_name(each.kind)}</span> {_about(each)}</h3>'
            f"{charts.strip(each.strip, each.told, clock)}</article>"
        )


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], raw: bool = False, text: bool = False
) -> str:
    """Return a table; `raw` cells are HTML already, `text` is aligned to the left."""
    kind = ' class="text"' if text or not heads else ""
    head = "".join(f"<th{kind}>{escape(each)}</th>" for each in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{each if raw else escape(each)}</td>" for each in row)
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if heads else ""
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'
