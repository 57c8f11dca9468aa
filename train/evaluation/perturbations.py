"""What 30 seconds of a signal are put through to see what becomes of them: noise, or a lead off.

The noises are synthetic. Electrode motion stands for the records of that name in the MIT-BIH Noise
Stress Test Database (https://doi.org/10.13026/C2HS3T), which it imitates in its band alone.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from monitor.ecg.rpeaks import Signal

Random = np.random.Generator
Noise = Callable[[int, float, Random], Signal]
"""So many samples of noise at a sampling rate, of any size."""
Change = Callable[[Signal, float, Random], Signal]
"""What is done to some seconds of signal, [n], at a sampling rate."""


def _white(n: int, _: float, random: Random) -> Signal:
    return random.normal(size=n)


def _band(low: float, high: float) -> Noise:
    def noise(n: int, rate: float, random: Random) -> Signal:
        from scipy.signal import butter, sosfiltfilt

        band = butter(2, (low, min(high, 0.45 * rate)), "bandpass", fs=rate, output="sos")
        filtered: Signal = sosfiltfilt(band, random.normal(size=n))
        return filtered

    return noise


def _mains(hertz: float) -> Noise:
    def noise(n: int, rate: float, _: Random) -> Signal:
        return np.asarray(np.sin(2 * np.pi * hertz * np.arange(n) / rate))

    return noise


def _falling(power: float) -> Noise:
    """Noise whose power falls with the frequency, to this power of it."""

    def noise(n: int, rate: float, random: Random) -> Signal:
        hertz = np.fft.rfftfreq(n, 1 / rate)
        spectrum = np.fft.rfft(random.normal(size=n)) * np.maximum(hertz, 0.5) ** (-power / 2)
        return np.asarray(np.fft.irfft(spectrum, n))

    return noise


def _motion(n: int, rate: float, random: Random) -> Signal:
    """An electrode that is pulled at, two to three times a second, and comes back slowly."""
    moved = np.zeros(n)
    at = 0
    while at < n:
        back = np.exp(-np.arange(n - at) / rate / random.uniform(0.1, 0.6))
        moved[at:] += random.normal() * back
        at += 1 + int(rate * random.exponential(0.4))
    return moved


def _in(noise: Noise, decibels: float) -> Change:
    def change(signal: Signal, rate: float, random: Random) -> Signal:
        added = noise(len(signal), rate, random)
        changed: Signal = signal + added * (signal.std() / added.std() * 10 ** (-decibels / 20))
        return changed

    return change


def _alone(noise: Noise, level: float) -> Change:
    """No heart at all: noise of this deviation, in deviations of the signal."""

    def change(signal: Signal, rate: float, random: Random) -> Signal:
        alone = noise(len(signal), rate, random)
        changed: Signal = signal[0] + alone * (level * signal.std() / alone.std())
        return changed

    return change


def _hum(n: int, rate: float, random: Random) -> Signal:
    return _mains(50)(n, rate, random) + 0.2 * random.normal(size=n)


def _rail(signal: Signal, rate: float, random: Random) -> Signal:  # noqa: ARG001
    return np.full_like(signal, signal.max() + 3 * np.ptp(signal))


CHANGES: Final[dict[str, Change]] = (
    {"as it was": lambda signal, rate, random: signal}  # noqa: ARG005
    | {
        f"{name}, {decibels} dB": _in(noise, decibels)
        for name, noise in {
            "white noise": _white,
            "muscle, 20 to 120 Hz": _band(20, 120),
            "mains, 50 Hz": _mains(50),
            "mains, 60 Hz": _mains(60),
            "pink noise": _falling(1),
            "electrode motion": _motion,
            "baseline wander": _band(0.05, 0.4),
        }.items()
        for decibels in (0, -6)
    }
    | {
        f"{name} alone": _alone(noise, 1)
        for name, noise in {
            "white noise": _white,
            "muscle": _band(20, 120),
            "pink noise": _falling(1),
            "brown noise": _falling(2),
        }.items()
    }
    | {
        "lead off: flat": lambda signal, rate, random: np.full_like(signal, signal[0]),  # noqa: ARG005
        "lead off: at the rail": _rail,
        "lead off: hum": _alone(_hum, 1),
        "lead off: faint hum": _alone(_hum, 0.05),
        "lead off: faint white noise": _alone(_white, 0.02),
        "lead off: faint brown noise": _alone(_falling(2), 0.05),
    }
)
"""What is done to the 30 seconds; of the noises added, the ratio of signal to noise."""
