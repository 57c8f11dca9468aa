"""Go through a recording as the daemons would live, and note what they say of it.

The samples pass through the same streams, messages, detectors and decisions. Hours are cut side by
side, each with two minutes before it in which the rhythm is learnt.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import inf
from multiprocessing import get_context
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from monitor import processors
from monitor.alarms.decisions import Alarms
from monitor.alarms.kinds import ANOMALOUS, ATYPICAL, NORMAL, POOR, VENTRICULAR
from monitor.alarms.trends import Tally, runs
from monitor.daemon.changes import AlarmEvent
from monitor.daemon.pipeline import Pipeline, ScoredBatch
from monitor.detector.model_file import DetectorCard
from monitor.detector.per_device import Detectors
from monitor.ecg import segmenter
from monitor.ecg.chunks import Chunk
from monitor.ecg.records import Record
from monitor.ecg.rhythm import RhythmSettings
from monitor.ecg.rpeaks import Signal
from monitor.ecg.segmenter import FUTURE, STEP
from monitor.ecg.streams import Stream
from monitor.mqtt.beat_consumer import Message
from monitor.report.content import Content, Event, Run, Strip, limits, runs_told, to_draw
from monitor.segment.messages import messages
from monitor.settings import Settings
from monitor.times import from_rfc3339
from monitor.topics import Topics

PART: Final = 3600
"""Seconds that are cut in one piece: enough parts of a day for every core, few of them warm up."""

WARM_UP: Final = 120
"""Seconds before a part that are heard and not told: a lead's usual complex is learnt from 12."""

CHUNK: Final = 2
"""Seconds of samples that are taken at once."""

AROUND: Final = 10.0
"""Seconds of signal shown before and after an event."""

SHORTEST_RUN: Final = 3
"""Ventricular beats in a row that are a run."""

BATCH: Final = 256
"""Messages that are scored at once."""

_UNSHAPED = bytes.maketrans(bytes((ANOMALOUS, ATYPICAL, VENTRICULAR)), bytes((NORMAL,)) * 3)
_LETTERS = {NORMAL: "N", ANOMALOUS: "A", ATYPICAL: "A", VENTRICULAR: "V"}


class _Part(NamedTuple):
    """The samples of a part with what is before and after it; `first` is their first number."""

    leads: dict[str, Signal]
    first: int
    begin: int
    end: int


class _Heard(NamedTuple):
    """All beats of a recording: their times in seconds since 1970, and their verdicts, [n] each."""

    times: NDArray[np.float64]
    verdicts: NDArray[np.uint8]


def report(record: Record, name: str, settings: Settings, start: float | None = None) -> Content:
    """Return what the monitor says of a recording.

    Args:
        record: of which all leads are heard.
        name: of the recording, which stands for the device: its model and limits are taken.
        settings: of the daemons.
        start: when the recording began, in seconds since 1970; None if that is not known.

    Raises:
        ConfigurationError: a model file cannot be used.
    """
    begin = start or 0.0
    detectors = Detectors(settings.model)
    card = detectors.for_device(name).card
    shaped = card.segmentation == segmenter.DESCRIPTION
    alarms = Alarms(settings.alarm.policy)
    end = begin + len(record.signal) / record.rate
    # A recording may be as old as it likes.
    pipeline = Pipeline(
        Topics(["{device}"]),
        "json",
        detectors,
        alarms,
        settings.rhythm.for_device,
        longest_held=inf,
    )
    events: dict[str, Event] = {}
    tallies: dict[float, Tally] = {}
    times: list[float] = []
    verdicts: list[bytes] = []
    pause = (0.0, begin)
    for payloads in _cut(record, settings.rhythm.for_device(name), begin):
        for at in range(0, len(payloads), BATCH):
            batch = pipeline.score(
                [_message(name, each) for each in payloads[at : at + BATCH]], end
            )
            if not shaped:
                batch = batch._replace(verdicts=batch.verdicts.translate(_UNSHAPED))
            for event in pipeline.decide(batch, begin).events:
                _note(events, event)
            for since, longest in _count(batch, tallies, times):
                pause = max(pause, (longest, since))
            verdicts.append(batch.verdicts)
    heard = _Heard(np.array(times), np.frombuffer(b"".join(verdicts), np.uint8))
    content = Content(
        title=name,
        begin=begin,
        end=end,
        dated=start is not None,
        facts=_facts(record, card, settings, name, shaped),
        shaped=shaped,
        notes=_notes(card, shaped),
        minutes=[tallies[time].minute() for time in sorted(tallies)],
        events=list(events.values()),
    )
    for each in content.events:
        if each.pause_s:
            pause = max(pause, (each.pause_s, each.begin))
    content.longest_pause = pause if pause[0] else None
    _find_runs(content, heard, settings.rhythm.for_device(name))
    _draw_strips(content, record, heard)
    return content


# -- cutting


def _cut(record: Record, limits: RhythmSettings, begin: float) -> Iterator[list[bytes]]:
    """Yield the messages of each part of a recording, in order, and show how far it is."""
    parts = list(_parts(record))
    work = partial(_cut_part, rate=record.rate, lead=record.lead, limits=limits, begin=begin)
    console = Console(stderr=True)
    cores = min(len(parts), processors.available())
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("hours of signal", total=len(parts))

        def shown(results: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
            for i, result in enumerate(results, 1):
                yield result
                bar.advance(task)
                if not console.is_terminal and len(parts) > 1:
                    print(f"hour {i} of {len(parts)}", file=sys.stderr)

        if cores < 2:
            yield from shown(map(work, parts))
            return
        with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
            yield from shown(pool.map(work, parts))


def _parts(record: Record) -> Iterator[_Part]:
    leads = {record.lead: record.signal} | record.leads
    length, warm_up = round(PART * record.rate), round(WARM_UP * record.rate)
    late = round((STEP + FUTURE) * record.rate)  # a beat is cut by so much later
    for begin in range(0, len(record.signal), length):
        end = min(begin + length, len(record.signal))
        first = max(0, begin - warm_up)
        own = {name: samples[first : end + late] for name, samples in leads.items()}
        yield _Part(own, first, begin, end)


def _cut_part(
    part: _Part, rate: float, lead: str, limits: RhythmSettings, begin: float
) -> list[bytes]:
    """Return the messages of a part, as `segment` publishes them."""
    stream, step = None, round(CHUNK * rate)
    payloads: list[bytes] = []
    total = len(part.leads[lead])
    for at in range(0, total, step):
        seq = part.first + at
        samples = {name: own[at : at + step] for name, own in part.leads.items()}
        chunk = Chunk(samples, rate, seq, begin + seq / rate)
        if stream is None:
            stream = Stream(rate, chunk, lead, limits)
        beats, _ = stream.feed(chunk, begin + seq / rate)
        if at + step >= total:
            beats += stream.finish()
        beats = [beat for beat in beats if part.begin <= beat.seq < part.end]
        payloads += messages(beats, stream, part.begin <= seq < part.end)
    return payloads


def _message(device: str, payload: bytes) -> Message:
    return Message(device.encode(), payload, None, 0, 0, 0.0, False)


# -- what is noted


def _note(events: dict[str, Event], event: AlarmEvent) -> None:
    decision, alert = event.decision, event.alert
    moment = from_rfc3339(alert.time)
    known = events.get(decision.alarm)
    if known is None:
        events[decision.alarm] = Event(
            decision.kind,
            decision.priority,
            decision.since,
            moment,
            heart_rate=decision.heart_rate,
            pause_s=decision.pause_s,
            beat=alert.beat,
        )
        return
    known.priority = decision.priority
    known.pause_s = max(known.pause_s or 0, decision.pause_s or 0) or None
    if decision.event == "cleared":
        known.end = moment


def _count(
    batch: ScoredBatch, tallies: dict[float, Tally], times: list[float]
) -> Iterator[tuple[float, float]]:
    """Count the beats of a batch in their minutes; yield the beginning and length of each pause."""
    for each in batch.messages:
        if not len(each.beats):
            continue
        own = each.beats.times(0.0)
        times += own
        intervals = each.beats.rr_ms or [0.0] * len(own)
        verdicts = batch.verdicts[each.start : each.stop]
        for time, rr, verdict in zip(own, intervals, verdicts, strict=True):
            minute = time // 60 * 60
            tally = tallies.get(minute) or tallies.setdefault(minute, Tally(minute))
            tally.add(verdict, rr)
            if verdict != POOR and rr:
                yield time - rr / 1000, rr / 1000


def _find_runs(content: Content, heard: _Heard, settings: RhythmSettings) -> None:
    """Note the longest and the fastest run of ventricular beats."""
    found = []
    for first, last in runs(heard.verdicts == VENTRICULAR, SHORTEST_RUN):
        lasts = heard.times[last - 1] - heard.times[first]
        if lasts > 0:
            rate = 60 * (last - first - 1) / lasts
            found.append(Run(last - first, float(rate), float(heard.times[first]), True))
    # The rhythm is told by all leads: it may know of a run that the beats of one do not show.
    found += runs_told(content.events, settings.run_beats)
    if found:
        content.longest_run = max(found, key=lambda run: run.beats)
        content.fastest_run = max(found, key=lambda run: run.rate)


def _draw_strips(content: Content, record: Record, heard: _Heard) -> None:
    """Give the most serious events the signal around them."""
    leads = {record.lead: record.signal} | record.leads
    for event in to_draw(content.events):
        first = max(0, round((event.told - content.begin - AROUND) * record.rate))
        last = min(len(record.signal), first + round(2 * AROUND * record.rate))
        begin = content.begin + first / record.rate
        near = np.flatnonzero((heard.times >= begin) & (heard.times < begin + 2 * AROUND))
        event.strip = Strip(
            begin,
            record.rate,
            {name: samples[first:last] for name, samples in leads.items()},
            "mV",
            [
                (float(heard.times[i]), _LETTERS[int(heard.verdicts[i])])
                for i in near
                if heard.verdicts[i] != POOR
            ],
        )


def _facts(
    record: Record, card: DetectorCard, settings: Settings, name: str, shaped: bool
) -> list[tuple[str, str]]:
    rhythm, anomaly = limits(settings, name)
    leads = list({record.lead: None} | dict.fromkeys(record.leads))
    return [
        ("Leads", f"{', '.join(leads)}, {record.rate:g} samples a second"),
        ("Beats cut from", record.lead or "the only lead"),
        (
            "Model",
            f"{card.name}, created {card.created}, trained on {card.dataset.name}"
            if shaped
            else "none: the shape of beats is not judged",
        ),
        ("Rhythm", rhythm),
        ("Anomaly", anomaly if shaped else "not watched"),
    ]


def _notes(card: DetectorCard, shaped: bool) -> list[str]:
    if shaped:
        return []
    return [
        f"No model of this heart was given ({card.name} knows beats that are cut in another way), "
        "so the shape of its beats is not judged: single ventricular beats and runs shorter than "
        "a ventricular tachycardia are not counted. ecg-train ecg --record fits one."
    ]
