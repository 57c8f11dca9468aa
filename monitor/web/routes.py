"""The routes of the web server: the live page and its API, metrics and health."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitor.alarms import operator_requests
from monitor.alarms.trends import Minute
from monitor.errors import Failure, Rejected
from monitor.history import query
from monitor.times import from_rfc3339
from monitor.web.live_feed import LiveFeed
from monitor.web.server import TEXT, Answer, Request, Route
from monitor.web.snapshot import Snapshot

Health = Callable[[], str | None]
"""Returns what is wrong; None if nothing is."""

Ask = Callable[[operator_requests.Request, str | None], Future[str | None]]
"""Queues a request for the loop; the future's result is why it cannot be carried out, or None."""

FILES = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
JSON = "application/json"

MAX_ALARMS = 500
"""Most past alarms in one answer."""

LONGEST_TREND = 7 * 86400.0
"""Seconds that a trend may go back: 10,080 minutes, 600 kB."""

REQUEST_TIMEOUT = 5.0
"""Seconds that the loop may take to carry out a request."""


class Live(msgspec.Struct, frozen=True):
    """The answer of `/api/live`.

    Attributes:
        trouble: what is wrong; None if nothing is.
        uncalled: who cannot be called of alarms; None if everybody can.
        attending: whether alarms can be acknowledged and devices shelved over HTTP.
        view: the latest snapshot.
    """

    trouble: str | None
    uncalled: str | None
    attending: bool
    view: Snapshot | None


class Vitals(Protocol):
    """Reports on the state of a program; called from other threads."""

    @property
    def standby(self) -> bool:
        """Whether it waits until another program is gone."""

    def health(self) -> str | None:
        """Return what is wrong with anything that the program needs; None if nothing is."""

    def stalled(self) -> str | None:
        """Return that the main loop is stuck; None while it runs, whatever the broker does."""


def health_and_metrics(registry: CollectorRegistry, vitals: Vitals) -> dict[str, Route]:
    """Return the routes that every daemon serves, by path."""
    return {
        "/metrics": _metrics(registry),
        "/healthz": _healthz(vitals.health, lambda: "standby" if vitals.standby else "ok"),
        "/livez": _healthz(vitals.stalled),
    }


def routes(
    health: Health,
    live: LiveFeed,
    kept: Path | None,
    attending: bool,
    calls: Health = lambda: None,
) -> dict[str, Route]:
    """Return the routes of the live page and its API, by path.

    Args:
        health: of the monitor, shown on the page.
        live: the source of snapshots.
        kept: the file of the history; None if none is kept.
        attending: whether alarms can be acknowledged and devices shelved here.
        calls: who cannot be called of alarms, shown on the page, too.
    """
    return {
        **_files(),
        "/api/live": _live(health, live, attending, calls),
        "/api/signal": _signal(live),
        "/api/alarms": _alarms(kept),
        "/api/alarm": _alarm(kept),
        "/api/strip": _strip(kept),
        "/api/trend": _trend(kept),
    }


def actions(ask: Ask) -> dict[str, Route]:
    """Return the routes that change something, by path."""
    return {
        f"/api/{topic.rpartition('/')[2]}": _action(topic, ask)
        for topic in operator_requests.TOPICS
    }


def _files() -> dict[str, Route]:
    """Return the files of the page, with the page itself as `/`; they are read once."""

    def route(file: Path) -> Route:
        answer = Answer(HTTPStatus.OK, f"{TYPES[file.suffix]}; charset=utf-8", file.read_bytes())
        return lambda _request: answer

    files = {file.name: route(file) for file in FILES.iterdir() if file.suffix in TYPES}
    return {"/": files.pop("index.html")} | {f"/{name}": file for name, file in files.items()}


def _live(health: Health, live: LiveFeed, attending: bool, calls: Health) -> Route:
    def answer(request: Request) -> Answer:
        view = live.snapshot(request.query.get("device", ""))
        return _json(Live(health(), calls(), attending, view))

    return answer


def _signal(live: LiveFeed) -> Route:
    """Return the route for the raw signal of a device that is watched, from a sample on."""

    def answer(request: Request) -> Answer:
        try:
            after = int(request.query.get("after", 0))
        except ValueError:
            return _said(HTTPStatus.BAD_REQUEST, "after must be the number of a sample")
        return _json(live.signal(request.query.get("device", ""), after))

    return answer


def _alarms(kept: Path | None) -> Route:
    """Return the route for the alarms since a time, of one or all devices, without their beats."""

    def answer(request: Request) -> Answer:
        asked = request.query
        try:
            since = from_rfc3339(asked["since"]) if "since" in asked else None
            most = int(asked.get("limit", MAX_ALARMS))
        except (ValueError, OverflowError):
            said = "since must be a time such as 2026-11-21T22:00:00Z, and limit a number"
            return _said(HTTPStatus.BAD_REQUEST, said)
        if kept is None:
            return _said(HTTPStatus.NOT_FOUND, "no history is kept")
        found = query.alarms(kept, since, asked.get("device"), max(1, min(most, MAX_ALARMS)))
        try:
            return _json([replace(each, beat=None, reconstruction=None) for each in found])
        except Failure as failure:
            return _said(HTTPStatus.NOT_FOUND, str(failure))

    return answer


def _alarm(kept: Path | None) -> Route:
    """Return the route for one alarm, with its beat."""

    def answer(request: Request) -> Answer:
        if kept is None:
            return _said(HTTPStatus.NOT_FOUND, "no history is kept")
        try:
            found = next(query.alarms(kept, alarm=request.query.get("id", "")), None)
        except Failure as failure:
            return _said(HTTPStatus.NOT_FOUND, str(failure))
        return _json(found) if found else _said(HTTPStatus.NOT_FOUND, "no alarm has this id")

    return answer


def _strip(kept: Path | None) -> Route:
    """Return the route for the signal around an alarm, as `asyncapi.yaml` describes it."""

    def answer(request: Request) -> Answer:
        if kept is None:
            return _said(HTTPStatus.NOT_FOUND, "no history is kept")
        try:
            found = query.strip(kept, request.query.get("id", ""))
        except Failure as failure:
            return _said(HTTPStatus.NOT_FOUND, str(failure))
        if found is None:
            return _said(HTTPStatus.NOT_FOUND, "no strip of this alarm is kept")
        return Answer(HTTPStatus.OK, JSON, found)

    return answer


class Trend(msgspec.Struct, frozen=True):
    """The answer of `/api/trend`; times in seconds since 1970.

    Attributes:
        minutes: in order, those in which a beat was heard: time, beats, lowest, mean and highest
            heart rate, ventricular, other anomalous and poor beats.
        alarms: those that were open since `begin`, the latest first, without their beats.
    """

    device: str
    begin: float
    end: float
    minutes: list[Minute]
    alarms: list[query.PastAlarm]


def _trend(kept: Path | None) -> Route:
    """Return the route for the minutes of a device, a day of them or since a time."""

    def answer(request: Request) -> Answer:
        asked, now = request.query, time.time()
        try:
            since = from_rfc3339(asked["since"]) if "since" in asked else now - 86400
        except (ValueError, OverflowError):
            return _said(
                HTTPStatus.BAD_REQUEST, "since must be a time such as 2026-11-21T22:00:00Z"
            )
        if kept is None:
            return _said(HTTPStatus.NOT_FOUND, "no history is kept")
        device, since = asked.get("device", ""), max(since, now - LONGEST_TREND)
        try:
            minutes = query.minutes(kept, device, since)
            past = [
                replace(each, beat=None, reconstruction=None)
                for each in query.alarms(kept, since, device, MAX_ALARMS)
            ]
        except Failure as failure:
            return _said(HTTPStatus.NOT_FOUND, str(failure))
        return _json(Trend(device, since, now, minutes, past))

    return answer


class _Whose(msgspec.Struct):
    """The device of a request over HTTP; over MQTT it is in the topic."""

    device: str | None = None


def _action(topic: str, ask: Ask) -> Route:
    def answer(request: Request) -> Answer:
        try:
            asked = operator_requests.decode(topic, request.body)
            device = msgspec.json.decode(request.body, type=_Whose).device
        except (Rejected, msgspec.ValidationError) as error:
            return _said(HTTPStatus.BAD_REQUEST, str(error))
        answer = ask(asked, device)
        try:
            problem = answer.result(REQUEST_TIMEOUT)
        except TimeoutError:
            if answer.cancel():
                said = (
                    "the broker has not been reached yet, the main loop is stuck, or the history "
                    "cannot be written"
                )
                return _said(HTTPStatus.SERVICE_UNAVAILABLE, said)
            problem = answer.result()  # it is being carried out just now
        return _said(HTTPStatus.CONFLICT, problem) if problem else _said(HTTPStatus.OK, "done")

    return answer


def _metrics(registry: CollectorRegistry) -> Route:
    def answer(request: Request) -> Answer:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Answer(HTTPStatus.OK, content_type, encode(registry))

    return answer


def _healthz(health: Health, well: Callable[[], str] = lambda: "ok") -> Route:
    def answer(_request: Request) -> Answer:
        trouble = health()
        if trouble is None:
            return _said(HTTPStatus.OK, well())
        return _said(HTTPStatus.SERVICE_UNAVAILABLE, trouble)

    return answer


def _json(value: object) -> Answer:
    return Answer(HTTPStatus.OK, JSON, msgspec.json.encode(value))


def _said(status: HTTPStatus, text: str) -> Answer:
    return Answer(status, TEXT, f"{text}\n".encode())
