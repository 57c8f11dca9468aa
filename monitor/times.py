"""Convert times: RFC 3339 in UTC, milliseconds and seconds since 1970; doubt a wrong clock."""

import contextlib
from datetime import UTC, datetime

from monitor.errors import Rejected

EARLIEST, LATEST = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2, 9999))
"""The times that are kept, in seconds since 1970: those that RFC 3339 can express."""

MARGIN = 366 * 86400.0
"""Seconds by which a time in a message must be within these bounds: a year. The times of its beats
are RR intervals away from it, at most 41 days in the longest message."""


MAX_AHEAD = 300.0
"""Seconds that a device's clock may be ahead of ours: as many as Kerberos allows. What is further
ahead cannot have happened yet."""

LONGEST_HELD = 7 * 86400.0
"""Seconds for which a message may have been held back, unless the broker's session lasts longer.

A device stores what it measured while it had no network, a broker while the monitor was away: for
hours, after a weekend for days. A clock that was never set shows 1970 or 2000, and seconds taken
for milliseconds give January 1970."""


def is_credible(time: float, arrival: float, longest_held: float = LONGEST_HELD) -> bool:
    """Return whether what arrived at `arrival` may be of `time`, both in seconds since 1970."""
    return arrival - longest_held <= time <= arrival + MAX_AHEAD


def seconds(time: str | float | None) -> float | None:
    """Return a time in a message, RFC 3339 or epoch milliseconds, in seconds since 1970 UTC.

    Raises:
        Rejected: it is neither, or too near the ends of the range of RFC 3339.
    """
    if time is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        seconds = _moment(time) if isinstance(time, str) else time / 1000
        if EARLIEST + MARGIN <= seconds <= LATEST - MARGIN:
            return seconds
    raise Rejected("time", f"{str(time)[:40]!r} is neither RFC 3339 nor epoch milliseconds")


def _moment(text: str) -> float:
    text = text.upper()  # RFC 3339 has "t" and "z", too
    leap = text[16:19] == ":60"  # and leap seconds, which Python has not
    moment = datetime.fromisoformat(f"{text[:17]}59{text[19:]}" if leap else text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.timestamp() + leap


def rfc3339(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC, to the millisecond.

    >>> rfc3339(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def from_rfc3339(text: str) -> float:
    """Return an RFC 3339 time in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def local(time: str) -> str:
    """Return RFC 3339 as local time, to be read by people, with the date unless it is today."""
    moment = datetime.fromisoformat(time).astimezone()
    today = moment.date() == datetime.now(UTC).astimezone().date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M:%S}"
