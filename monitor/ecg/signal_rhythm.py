"""Follow the rhythm of a heart in the raw samples of its leads, second by second.

Each lead is followed separately: its QRS complexes, how similar each is to the usual one, whether
the lead is on, and whether it shows fibrillation waves. Only trusted leads decide, so a lead that
is loose or falls off neither hides an alarm nor causes one.

The work is done in steps of one second at fixed times, so the result does not depend on how the
samples are divided into chunks. A step uses no sample after its end.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from heapq import merge
from itertools import pairwise
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.rhythm import (
    SEVERITY,
    Change,
    Finding,
    RhythmKind,
    RhythmSettings,
    Standing,
    fast_rate,
    slow_rate,
)

Signal = NDArray[np.float64]

RATE: Final = 125
"""Sampling rate of the analysis, in Hz: QRS complexes, fibrillation and spikes are below 62 Hz."""

KEPT: Final = 8
"""Seconds kept of each lead."""

QRS_BAND: Final = (5.0, 22.0)
WAVE_BAND: Final = (0.8, 30.0)
FAST_BAND: Final = 32.0
"""Hz; for QRS complexes, for the shape of beats and waves, and the lower limit for spikes and
noise."""

SMOOTHED: Final = 9
"""Samples, 72 ms, over which the power of a band is averaged: the length of a QRS complex."""

APART: Final = 15
"""Samples, 120 ms, on either side of a complex without a larger one."""

MARGIN: Final = 28
"""Samples, 224 ms, by which decisions are delayed, so that a pacing spike is seen completely."""

REACH: Final = 18
"""Samples, 144 ms, of the shape of a complex on either side of its centre."""

LAG: Final = 2
"""Samples by which a shape is shifted, to either side, when it is compared with another."""

STILL: Final = 1.0
"""Seconds without any change after which a lead is off."""

SETTLED: Final = 3.0
"""Seconds after which a lead that was off is used again: the filters have settled."""

LEARNT: Final = 12
"""Number of complexes from which the usual one is learnt."""

TALL: Final = 0.35
TALL_AFTER_PAUSE: Final = 0.25
PAUSED: Final = 1.2
LOW_BUT_ALIKE: Final = 0.2
"""Smallest size of a complex, as a share of the usual one's.

The second applies `PAUSED` seconds after the last complex, the last one if the shape is the usual
one. P waves have 0.05 to 0.15.
"""

REFRACTORY: Final = 0.2
T_WAVE_WITHIN: Final = 0.36
T_WAVE: Final = 0.5
LATE_T_WAVE_WITHIN: Final = 0.6
LATE_T_WAVE: Final = 0.4
"""Seconds after a complex, and shares of its slope, up to which another peak is its T wave.

Pan and Tompkins use a half within 0.36 s; a T wave as late as 0.6 s belongs to a long QT interval.
"""

LOW_T_WAVE_WITHIN: Final = 0.45
LOW_T_WAVE: Final = 0.6
"""Seconds after a complex, and the share of its size, up to which another peak that does not look
like a complex is its T wave: for paced beats, whose T waves are steep."""

ALIKE: Final = 0.7
"""Correlation with the usual or the previous complex from which a complex is similar to it."""

BELIEVED: Final = 0.5
"""Share of the last complexes that must be similar for a lead to be trusted. 0.45 and 0.55 give the
same result on `challenge2015`; 0.6 loses a tachycardia of short runs."""

FORGETTING: Final = 0.06
"""Weight of each new complex in that share: about the last 16 count."""

FOLLOWING: Final = 0.08
"""Weight of each new similar complex in the usual one."""

STRANGE: Final = 40
"""Dissimilar complexes, at less than 120 a minute, after which the usual one is learnt again."""

SPIKE: Final = 0.8
SPIKE_SIZE: Final = 0.25
"""Power of a spike above `FAST_BAND`, relative to that in `QRS_BAND` and to the usual complex.

QRS complexes have 0.06 to 0.45 of the first, pacing spikes 0.9 to 2.
"""

VENTRICULAR: Final = (2.57, -4.3, -8.2, -9.6)
"""Log odds of a ventricular beat: constant, correlation, logarithms of sharpness and swiftness.

The last two in those of the usual complex. Fitted to the beats N and V of `mitdb` and `svdb`, where
it has an AUC of 0.88 on records left out (one lead; correlation alone has 0.82).
"""

UNLIKE: Final = 0.85
UNLIKE_ODDS: Final = 0.5
"""Correlation below which, or log odds above which, a beat may belong to a run."""

RUN_STEADY: Final = 0.55
"""Required similarity of the beats of a run: the median correlation of each with the previous one,
minus the standard deviation of the logarithm of their sizes.

The runs of `challenge2015` have at least 0.61, noise that looks like a run at most 0.53.
"""

FAST_RUN: Final = 180.0
"""Beats a minute up to which a run is not fibrillation, though its waves may look like it."""

FLUTTER: Final = 240.0
"""Beats a minute from which a run is flutter."""

FIBRILLATION: Final = (-10.717, -4.263, 0.625, 7.628, 4.148, -4.351)
"""Log odds of four seconds of fibrillation: constant, lowest autocorrelation, main frequency in Hz,
shares of 1.8 to 9 Hz and below 1.8 Hz, share of nearly level samples.

Fitted to `vfdb`, `cudb`, `mitdb`, `svdb`, `nsrdb` and the false alarms of `challenge2015`; AUC 0.92
on records left out.
"""

FIBRILLATES: Final = 0.0
"""Log odds from which a window is fibrillation."""

BEATS: Final = 0.0
"""Log odds of fibrillation up to which a lead with usual complexes refutes it.

With 0.7, 28 of 36 episodes of `vfdb` are detected, with 0.0, 32, at the cost of five more false
alarms in 6.6 hours of `vfdb` and `cudb`, all in three of the sickest records.
"""

LOWEST_WAVE: Final = 0.15
"""Share of the usual beat's span below which waves are not fibrillation but asystole."""

NOTHING, NOTHING_WITHIN = 0.0085, 2
"""Share of the usual beat's span over so many seconds below which there is only hum: a lead is off.

An electrode without a patient picks up the mains. A stopped heart leaves P waves (0.11) or
baseline wander (0.03 mV: 0.01 to 0.03); hum of a twentieth of the ECG leaves 0.006.
"""

WINDOW: Final = 4
"""Length of the window for fibrillation, in seconds."""

PAUSE_ERROR: Final = 0.125
"""Share of the limit by which a pause may be shorter and still be an asystole.

Complexes have a width, and the experts of `challenge2015` accepted a pause of 3.56 s.
"""

RATE_ERROR: Final = 5.0
FALLEN: Final = 1.35
"""Beats a minute by which a rate may miss the limit, the error that ANSI/AAMI EC13 allows a rate
meter; for a slow rate only if it was `FALLEN` times as fast before.

A heart that has always had 44 beats a minute has not slowed down to it.
"""

RESTLESS: Final = 0.45
"""Median signal between the complexes, relative to theirs, from which the rate is unknown."""

DISAGREE: Final = 1.15
"""Ratio of the rates of two leads from which one of them must be wrong."""

SAME_BEAT: Final = 0.15
"""Seconds within which complexes of two leads belong to one beat, as in ANSI/AAMI EC57."""

UNHEARD: Final = 10
"""Seconds without a trusted lead after which an alarm ends, as signal quality is then at fault."""

CLEARED_AFTER: Final = 5.0
"""Seconds without an arrhythmia after which it has ended."""


class Complex(NamedTuple):
    """A QRS complex of a lead.

    Attributes:
        at: seconds from the beginning of the stream.
        size: its height in the QRS band, relative to the usual complex.
        like: correlation with the usual complex.
        odds: log odds that it is ventricular.
        same: correlation with the previous complex.
    """

    at: float
    size: float
    like: float
    odds: float
    same: float


class _Filter:
    """A causal Butterworth filter that keeps its state from step to step.

    `lfilter` is exact enough for orders up to 4, and three times as fast as `sosfilt` on a second
    of samples: 8 instead of 25 us.
    """

    def __init__(
        self, order: int, band: float | tuple[float, float], kind: str, rate: float
    ) -> None:
        from scipy.signal import lfilter

        self._filter, (self._by, self._rest) = lfilter, _designed(order, band, kind, rate)
        self._state: NDArray[np.float64] | None = None

    def __call__(self, signal: Signal) -> Signal:
        if self._state is None:
            self._state = self._rest * signal[0]
        filtered, self._state = self._filter(*self._by, signal, zi=self._state)
        return np.asarray(filtered)


@lru_cache(maxsize=64)  # one for each sampling rate, and four; each takes 0.12 ms
def _designed(
    order: int, band: float | tuple[float, float], kind: str, rate: float
) -> tuple[tuple[Signal, Signal], Signal]:
    """Return the coefficients of a Butterworth filter, and its state after a long time of 1."""
    from scipy.signal import butter, lfilter_zi

    by = butter(order, band, kind, fs=rate)
    return by, lfilter_zi(*by)


def _power(signal: Signal) -> Signal:
    """Return the root mean square of the signal over `SMOOTHED` samples."""
    from scipy.ndimage import uniform_filter1d

    mean = np.maximum(uniform_filter1d(signal * signal, SMOOTHED), 0.0)
    return np.asarray(np.sqrt(mean))


class Lead:
    """One lead, step by step.

    Attributes:
        complexes: the last QRS complexes.
        on: whether it is on, and its filters have settled.
        on_since: the time since which it has been on, in seconds.
        decided: the time up to which complexes are decided.
        trust: the share of the last complexes similar to the usual or the previous one.
        known: the share of the last complexes similar to the usual one.
        silent: whether it contains nothing but hum.
        fibrillation: log odds that the last four seconds are fibrillation; None if they cannot be
            assessed.
    """

    def __init__(self, rate: float) -> None:
        """Start with no samples; `rate` is the sampling rate in Hz."""
        self.complexes: deque[Complex] = deque(maxlen=40)
        self.on, self.on_since, self.decided = False, 0.0, 0.0
        self.trust = self.known = self.learnt_at = 0.0
        self.fibrillation: float | None = None
        self.span = self.usual_span = 0.0
        self.restless = 0.0
        self.silent = False
        self._rate = rate
        self._low_pass = _Filter(4, min(55.0, 0.45 * rate), "lowpass", rate)
        self._fast = _Filter(2, FAST_BAND, "highpass", RATE)
        self._first = _Filter(2, QRS_BAND, "bandpass", RATE)
        self._qrs = _Filter(2, QRS_BAND, "bandpass", RATE)
        self._wave = _Filter(1, WAVE_BAND, "bandpass", RATE)
        self._seconds = 0
        self._raw: float | None = None
        self._smooth = 0.0
        self._unchanged = 0
        self._late = np.zeros((3, RATE + 2 * MARGIN))  # resampled, its fast and its QRS band
        self._waves, self._sharp = np.zeros(KEPT * RATE), np.zeros(KEPT * RATE)
        self._height = self._sharp
        self._size = 0.0
        self._first_heights: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None  # when the last complex was, and its height
        self._last_slope = 0.0
        self._shapes: deque[tuple[Signal, float, float, float]] = deque(maxlen=16)
        self._usual: Signal | None = None
        self._usual_sharpness = self._usual_swiftness = 1.0
        self._unlike = 0.0

    def step(self, samples: Signal) -> None:
        """Take the samples of the next second, NaN for lost ones."""
        signal, off = self._whole(samples)
        resampled = self._resampled(signal)
        fresh = np.stack([resampled, self._fast(resampled), self._first(resampled)])
        if self._seconds == 0:
            self._late[0] = resampled[0]
        self._late = np.concatenate([self._late[:, RATE:], fresh], axis=1)
        calm = self._without_spikes()
        self._waves = np.concatenate([self._waves[RATE:], self._wave(calm)])
        self._sharp = np.concatenate([self._sharp[RATE:], self._qrs(calm)])
        self._height = _power(self._sharp)
        self._seconds += 1
        if off or self.silent:
            self.on_since = float(self._seconds)
            self.complexes.clear()
            self._last = None
        self.on = self._seconds - self.on_since >= SETTLED
        self._find()
        self._look()

    def _whole(self, samples: Signal) -> tuple[Signal, bool]:
        """Return the samples, lost ones replaced by the one before, and whether it is off."""
        known = np.isfinite(samples)
        if self._raw is None:
            self._raw = float(samples[known][0]) if known.any() else 0.0
        if known.all():
            signal = samples
        else:
            before = np.maximum.accumulate(np.where(known, np.arange(len(samples)), -1))
            signal = np.where(before >= 0, samples[before], self._raw)
        all_of = np.concatenate([[self._raw], signal])
        changes = np.flatnonzero(all_of[1:] != all_of[:-1])
        edges = np.concatenate([[-self._unchanged], changes, [len(signal)]])
        longest = int(np.diff(edges).max())
        self._unchanged = len(signal) - int(edges[-2])
        self._raw = float(signal[-1])
        return signal, longest >= STILL * self._rate or not known.any()

    def _resampled(self, signal: Signal) -> Signal:
        """Return the second, resampled to `RATE`."""
        smooth = self._low_pass(signal)
        before = self._smooth if self._seconds else float(smooth[0])
        self._smooth = float(smooth[-1])
        first = round(self._seconds * self._rate)
        places = (self._seconds + _PARTS) * self._rate - first
        known = np.concatenate([[before], smooth])
        return np.asarray(np.interp(places, np.arange(len(known)), known))

    def _without_spikes(self) -> Signal:
        """Return the second before the last `MARGIN`, with straight lines for pacing spikes."""
        signal, fast, sharp = self._late
        inner = slice(MARGIN, -MARGIN)
        if not self._size:
            return signal[inner]
        power = _power(fast)
        spiky = power > np.maximum(SPIKE * _power(sharp), SPIKE_SIZE * self._size)
        if not spiky.any():
            return signal[inner]
        edges = np.flatnonzero(np.diff(spiky, prepend=False, append=False))
        calm = signal.copy()
        for first, last in zip(edges[::2] - 2, edges[1::2] + 2, strict=True):
            if first > 0 and last < len(signal) and last - first <= MARGIN:
                ends = signal[first - 1], signal[last]
                calm[first:last] = np.linspace(*ends, last - first + 2)[1:-1]
        return calm[inner]

    def _find(self) -> None:
        """Find the complexes that can be decided now."""
        from scipy.ndimage import maximum_filter1d

        height = self._height
        start = self._seconds - MARGIN / RATE - KEPT
        last = len(height) - APART - 5
        first = max(round((self.decided - start) * RATE), 0)
        self.decided = start + last / RATE
        highest = maximum_filter1d(height, 2 * APART + 1)[first:last]
        for i in (np.flatnonzero((height[first:last] >= highest) & (highest > 0)) + first).tolist():
            at = start + i / RATE
            if not self.on_since or at > self.on_since + 0.5:
                self._consider(i, at, float(height[i]))
        if self._last is not None and self._seconds - self._last[0] > 10:
            self._size *= 0.985  # accepts complexes of half the size after a minute

    def _consider(self, i: int, at: float, height: float) -> None:
        """Decide whether the maximum at `i` is a complex."""
        if not self._size:
            self._first_heights.append((at, height))
            if at - self._first_heights[0][0] > 3.0:
                heights = np.array([each for _, each in self._first_heights])
                self._size = float(np.median(heights[heights > 0.5 * np.sort(heights)[-2]]))
            return
        since = 9.0 if self._last is None else at - self._last[0]
        before = 0.0 if self._last is None else self._last[1]
        if since < REFRACTORY or (since < T_WAVE_WITHIN and height < T_WAVE * before):
            return
        near = self._waves[max(i - REACH, 0) : i + REACH + 1]
        slope = float(np.abs(np.diff(near)).max()) + 1e-12
        if since < LATE_T_WAVE_WITHIN:
            least = T_WAVE if since < T_WAVE_WITHIN else LATE_T_WAVE
            if slope < least * self._last_slope:
                return
        shapes = self._shapes_near(i)
        shape = shapes[LAG]
        like = 1.0 if self._usual is None else float((shapes @ self._usual).max())
        if since < LOW_T_WAVE_WITHIN and height < LOW_T_WAVE * before and like < ALIKE:
            return
        tall = (TALL if since < PAUSED else TALL_AFTER_PAUSE) * self._size
        if height < tall and not (like > 0.85 and height > LOW_BUT_ALIKE * self._size):
            return
        span = float(np.ptp(near)) + 1e-12
        sharpness = slope / span
        swiftness = (height + 1e-12) / span
        odds = -9.0
        if self._usual is not None:
            constant, by_like, by_sharpness, by_swiftness = VENTRICULAR
            odds = constant + by_like * like
            odds += by_sharpness * float(np.log(sharpness / self._usual_sharpness))
            odds += by_swiftness * float(np.log(swiftness / self._usual_swiftness))
        same = 0.0
        if self._shapes:
            same = float((shapes @ self._shapes[-1][0]).max())
        self.complexes.append(Complex(at, height / self._size, like, odds, same))
        self._last, self._last_slope = (at, height), slope
        self._size += 0.12 * (min(max(height, 0.5 * self._size), 2 * self._size) - self._size)
        self._learn((shape, sharpness, swiftness, span), like, same, since)

    def _shapes_near(self, i: int) -> Signal:
        """Return the shapes around a sample and its neighbours up to `LAG`, each of length 1.

        [2 * LAG + 1, 2 * REACH + 1]; the mean of each is 0 where no sample is missing before it.
        """
        first = i - REACH - LAG
        around = self._waves[max(first, 0) : i + REACH + LAG + 1]
        missing = max(0, -first)
        shapes = (np.concatenate([np.zeros(missing), around]) if missing else around)[_SHIFTED]
        known = 2 * REACH + 1 - np.maximum(missing - _LAGS, 0)
        shapes = shapes - (shapes.sum(axis=1) / known)[:, None]
        return np.asarray(shapes / (np.sqrt((shapes * shapes).sum(axis=1))[:, None] + 1e-12))

    def _learn(
        self, seen: tuple[Signal, float, float, float], like: float, same: float, since: float
    ) -> None:
        """Update the usual complex, and learn it again if another one has become usual."""
        self._shapes.append(seen)
        if self._usual is None:
            if len(self._shapes) >= LEARNT:
                self._learn_anew()
            return
        self.trust += FORGETTING * ((max(like, same) > ALIKE) - self.trust)
        self.known += FORGETTING * ((like > ALIKE) - self.known)
        if like > 0.8:
            usual = (1 - FOLLOWING) * self._usual + FOLLOWING * seen[0]
            self._usual = usual / np.sqrt(usual @ usual)
            self._usual_sharpness += FOLLOWING * (seen[1] - self._usual_sharpness)
            self._usual_swiftness += FOLLOWING * (seen[2] - self._usual_swiftness)
            self.usual_span += FOLLOWING * (seen[3] - self.usual_span)
            self._unlike = max(0.0, self._unlike - 2)
        else:
            self._unlike += since > 0.5
        if self._unlike > STRANGE:
            self._learn_anew()

    def _learn_anew(self) -> None:
        """Learn the usual complex from the last ones that are similar to the most typical one."""
        shapes = np.array([seen[0] for seen in self._shapes])
        alike = shapes @ shapes.T
        near = alike[int(np.argmax(np.median(alike, axis=1)))] > 0.8
        usual = shapes[near].mean(axis=0)
        self._usual = usual / np.sqrt(usual @ usual)
        rest = np.array([seen[1:] for seen in self._shapes])[near]
        medians = np.median(rest, axis=0).tolist()
        self._usual_sharpness, self._usual_swiftness, self.usual_span = medians
        self.trust = self.known = max(self.trust, float(near.mean()))
        self._unlike, self.learnt_at = 0.0, self.decided

    def _look(self) -> None:
        """Measure the last four seconds: span, restlessness, and odds of fibrillation."""
        window = self._waves[-WINDOW * RATE :]
        self.span = float(np.ptp(window))
        last = self._waves[-NOTHING_WITHIN * RATE :]
        self.silent = float(np.ptp(last)) < NOTHING * self.usual_span
        self.restless = float(np.median(self._height[-2 * RATE :])) / (self._size or np.inf)
        self.fibrillation = None
        if not self.on or self.span < LOWEST_WAVE * self.usual_span or self.span <= 0:
            return
        window = window - window.mean()
        spectrum = np.abs(np.fft.rfft(window * _HANN, 512)) ** 2
        total = float(spectrum[_ALL].sum()) + 1e-30
        main = float(_FREQUENCIES[_MIDDLE][int(np.argmax(spectrum[_MIDDLE]))])
        alike = np.fft.irfft(np.abs(np.fft.rfft(window, 1024)) ** 2)[:60]
        alike *= _OVERLAP / (alike[0] + 1e-30)
        slope = np.abs(window[1:] - window[:-1])
        measured = (
            1.0,
            float(alike[8:].min()),
            main,
            float(spectrum[_MIDDLE].sum()) / total,
            float(spectrum[_SLOW].sum()) / total,
            np.count_nonzero(slope < 0.1 * slope.max()) / len(slope),
        )
        self.fibrillation = float(np.dot(FIBRILLATION, measured))


_PARTS = np.arange(1, RATE + 1) / RATE
_LAGS = np.arange(2 * LAG + 1)
_SHIFTED = _LAGS[:, None] + np.arange(2 * REACH + 1)
_HANN = np.hanning(WINDOW * RATE)
_FREQUENCIES = np.arange(257) * RATE / 512
_ALL, _MIDDLE, _SLOW = (
    slice(*np.searchsorted(_FREQUENCIES, band)) for band in ((0.7, 30), (1.8, 9), (0.7, 1.8))
)
_OVERLAP = len(_HANN) / (len(_HANN) - np.arange(60))


def _backwards(lead: Lead) -> Iterator[tuple[float, Complex, Lead]]:
    """Iterate over the complexes of a lead and their times, the last one first."""
    return ((each.at, each, lead) for each in reversed(lead.complexes))


class SignalRhythm:
    """The rhythm of one patient, from the raw samples of one or more leads."""

    def __init__(
        self, rate: float, leads: Sequence[str], settings: RhythmSettings | None = None
    ) -> None:
        """Start at sample 0 of signals with `rate` samples a second."""
        self._rate, self._settings = float(rate), settings or RhythmSettings()
        self.leads = {name: Lead(rate) for name in leads}
        self._waiting: dict[str, Signal] = {name: np.empty(0) for name in leads}
        self._seconds = 0
        self._standing = Standing(self._settings, hold=CLEARED_AFTER)
        self._heard = 0  # when a lead was last trusted
        self._waves_since: float | None = None

    @property
    def standing(self) -> list[Finding]:
        """The present arrhythmias, most serious first."""
        return list(self._standing)

    def ventricular(self, name: str, second: float) -> bool:
        """Return whether a lead's complex at about this second is rather ventricular than not.

        Without a model: on the first leads of 14 records of the MIT-BIH Arrhythmia Database it
        finds 84 % of the ventricular beats, and 71 % of what it finds are such. The lead that is
        trusted most found 50 % of those of twelve records. False if there is no complex.
        """
        lead = self.leads[name]
        return any(
            each.odds > 0
            for each in lead.complexes
            if abs(each.at - second) < SAME_BEAT and each.at > lead.learnt_at
        )

    def feed(self, samples: Mapping[str, NDArray[Any]]) -> list[Change]:
        """Take the next samples of each lead; return what began, escalated, or ended.

        Args:
            samples: float [n] for each lead, the same n for all, NaN for lost samples. A missing
                lead counts as lost.
        """
        count = max((len(chunk) for chunk in samples.values()), default=0)
        for name, waiting in self._waiting.items():
            chunk = samples.get(name)
            lost = chunk is None or len(chunk) != count
            fresh = np.full(count, np.nan) if lost else np.asarray(chunk, np.float64)
            self._waiting[name] = np.concatenate([waiting, fresh])
        changes: list[Change] = []
        while True:
            length = round((self._seconds + 1) * self._rate) - round(self._seconds * self._rate)
            if any(len(waiting) < length for waiting in self._waiting.values()):
                return changes
            for name, lead in self.leads.items():
                lead.step(self._waiting[name][:length])
                self._waiting[name] = self._waiting[name][length:]
            self._seconds += 1
            changes += self._decide()

    def _decide(self) -> list[Change]:
        on = [lead for lead in self.leads.values() if lead.on]
        believed = [lead for lead in on if lead.trust >= BELIEVED]
        known = [lead for lead in believed if lead.known >= BELIEVED]
        run = self._run(known)
        slow_run = run is not None and (run.heart_rate or 0.0) < FAST_RUN
        waves = None if slow_run else self._fibrillation(on)
        checks = (waves, self._asystole(believed), run)
        found = [finding for finding in (*checks, *self._rates(believed)) if finding is not None]
        if believed:
            self._heard = self._seconds
        heard: Sequence[RhythmKind] = (
            SEVERITY if believed or self._seconds - self._heard > UNHEARD else ()
        )
        return self._standing.update(found, float(self._seconds), heard)

    def _fibrillation(self, on: list[Lead]) -> Finding | None:
        """Return fibrillation if all leads that are on show its waves, and none shows beats."""
        now = float(self._seconds)
        odds = [lead.fibrillation for lead in on if lead.fibrillation is not None]
        beating = any(self._beating(lead) for lead in on)
        if not odds or beating or max(odds) < FIBRILLATES:
            self._waves_since = None
            return None
        if self._waves_since is None:
            self._waves_since = now - WINDOW + 1
        if now - self._waves_since < self._settings.fibrillation_after:
            return None
        return Finding("ventricular-fibrillation", self._waves_since, now)

    def _beating(self, lead: Lead) -> bool:
        """Return whether a lead's last four seconds contain usual complexes."""
        if lead.trust < BELIEVED or (lead.fibrillation or 0.0) > BEATS:
            return False
        recent = [each.like > 0.85 for each in lead.complexes if each.at > self._seconds - WINDOW]
        return sum(recent) >= max(2, 0.5 * len(recent))

    def _asystole(self, believed: list[Lead]) -> Finding | None:
        """Return an asystole if no trusted lead has had a complex for long enough."""
        began = [lead for lead in believed if self._ended_well(lead)]
        if not began:
            return None
        now = min(lead.decided for lead in believed)
        since = max(lead.on_since for lead in believed)
        heard = merge(*map(_backwards, believed), key=itemgetter(0), reverse=True)
        places = [now]
        # Backwards, as only the pause that reaches into the last 1.5 s, and those in it, matter.
        for at, each, lead in heard:
            if at <= since or places[-1] <= now - 1.5:
                break
            if at < now and self._credible(each, lead, believed):
                places.append(at)
        if places[-1] > now - 1.5:
            places.append(since)
        pause, last = max((after - before, before) for after, before in pairwise(places))
        if pause < self._settings.asystole_after * (1 - PAUSE_ERROR):
            return None
        return Finding("asystole", last, float(self._seconds), pause_s=pause)

    def _credible(self, each: Complex, lead: Lead, believed: list[Lead]) -> bool:
        """Return whether a complex resembles the usual or previous one, or is on other leads."""
        others = [other for other in believed if other is not lead]
        seen = any(abs(o.at - each.at) < SAME_BEAT for other in others for o in other.complexes)
        return not others or seen or max(each.like, each.same) > 0.6

    def _ended_well(self, lead: Lead) -> bool:
        """Return whether a lead's last complex was real, and not a lead coming off."""
        if not lead.complexes:
            return False
        last = lead.complexes[-1]
        return last.like > 0.6 or last.same > 0.6

    def _run(self, believed: list[Lead]) -> Finding | None:
        """Return a run of ventricular beats, if there is one."""
        for lead in believed:
            run = self._unlike(lead)
            if len(run) < self._settings.run_beats:
                continue
            rate = 60 * (len(run) - 1) / (run[-1].at - run[0].at)
            alike = self._alike(run, believed)
            if (
                self._settings.run_rate < rate < FLUTTER
                and alike > RUN_STEADY
                and self._seconds - run[-1].at < 2.5
                and not any(
                    self._usual_between(other, run)
                    for other in believed
                    if other.known > lead.known
                )
            ):
                return Finding("ventricular-tachycardia", run[0].at, float(self._seconds), rate)
        return None

    def _unlike(self, lead: Lead) -> list[Complex]:
        """Return the last run of a lead's complexes that differ from the usual one."""
        run: list[Complex] = []
        for each in lead.complexes:
            if each.at <= lead.learnt_at:
                continue
            if each.like < UNLIKE or each.odds > UNLIKE_ODDS:
                run.append(each)
            elif len(run) < self._settings.run_beats or each.at > run[-1].at + 2.5:
                run = []
        return run

    def _usual_rate(self, best: list[Lead]) -> float:
        """Return the rate of the best lead before its last beats; 0 with too few beats."""
        lead = max(best, key=lambda lead: lead.trust)
        times = [each.at for each in lead.complexes][: -self._settings.bradycardia_beats]
        return 60 / float(np.median(np.diff(times))) if len(times) > 8 else 0.0

    def _fast(self, lead: Lead) -> float:
        """Return the rate of a lead over the beats of a tachycardia; 0 if it is unknown."""
        beats = list(lead.complexes)[-self._settings.tachycardia_beats :]
        alike = sum(max(each.like, each.same) > ALIKE for each in beats) / len(beats)
        rate = fast_rate([each.at for each in beats], self._settings.tachycardia_beats, True)
        return rate if rate is not None and alike > 0.7 else 0.0

    def _alike(self, run: list[Complex], believed: list[Lead]) -> float:
        """Return how similar the complexes of a run are, on the lead where they are most so.

        Of other leads only those count that are rather ventricular, too: the steady complexes that
        one lead shows say nothing for what another one takes for a run.
        """
        same = []
        for each in run[1:]:
            near = [
                o.same
                for lead in believed
                for o in lead.complexes
                if o is each or (o.odds > 0 and abs(o.at - each.at) < SAME_BEAT)
            ]
            same.append(max(near))
        scatter = float(np.std(np.log([each.size for each in run])))
        return float(np.median(same)) - scatter

    def _usual_between(self, lead: Lead, run: list[Complex]) -> bool:
        """Return whether a lead shows mostly its usual complex during a run on another lead."""
        usual = [
            each.like > 0.9 and each.odds < 0
            for each in lead.complexes
            if run[0].at - 0.1 < each.at < run[-1].at + 0.1
        ]
        return sum(usual) > 0.6 * max(len(usual), 3)

    def _rates(self, believed: list[Lead]) -> list[Finding]:
        """Return a rate that is too slow or too fast on the best leads, unless others refute it."""
        settings, now = self._settings, float(self._seconds)
        most = max((lead.trust for lead in believed), default=0.0)
        best = [
            lead
            for lead in believed
            if lead.trust > most - 0.2 and lead.restless < RESTLESS and lead.complexes
        ]
        if not best:
            return []
        times = [[each.at for each in lead.complexes] for lead in best]
        found = []
        slow = [
            slow_rate(
                each,
                lead.decided if lead.decided - each[-1] < 2.2 else None,
                settings.bradycardia_beats,
            )
            or np.inf
            for each, lead in zip(times, best, strict=True)
        ]
        limit = settings.bradycardia
        if min(slow) < limit + RATE_ERROR and self._usual_rate(best) > FALLEN * min(slow):
            limit += RATE_ERROR
        if min(slow) < limit and max(slow) < DISAGREE * (settings.bradycardia + RATE_ERROR):
            since = times[slow.index(min(slow))][-settings.bradycardia_beats]
            found.append(Finding("bradycardia", since, now, min(slow)))
        fast = [self._fast(lead) for lead in best]
        limit = max(0.0, settings.tachycardia - RATE_ERROR)  # 0 is a rate that is not known
        if max(fast) > limit and min(fast) > limit / DISAGREE:
            first = fast.index(max(fast))
            if now - times[first][-1] < 3:
                since = times[first][-settings.tachycardia_beats]
                found.append(Finding("tachycardia", since, now, max(fast)))
        return found
