"""What is answered over HTTP: the live page, what it asks for, metrics and health."""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from monitor.live import Live
from monitor.view import View
from monitor.web import TEXT, Answer, Page, Request

Health = Callable[[], str | None]
"""What is wrong; None while all is well."""

FILES = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
JSON = "application/json"


class Seen(msgspec.Struct, frozen=True):
    """What `/api/live` answers: what is wrong, if anything is, and what was shown last."""

    trouble: str | None
    view: View | None


def pages(registry: CollectorRegistry, health: Health, live: Live) -> dict[str, Page]:
    """All that is answered, by its path."""
    return {
        **_files(),
        "/api/live": _live(health, live),
        "/metrics": _metrics(registry),
        "/healthz": _healthz(health),
    }


def _files() -> dict[str, Page]:
    """The files of the page, the page itself as `/`; they are read once."""

    def page(file: Path) -> Page:
        answer = Answer(HTTPStatus.OK, f"{TYPES[file.suffix]}; charset=utf-8", file.read_bytes())
        return lambda _request: answer

    files = {file.name: page(file) for file in FILES.iterdir() if file.suffix in TYPES}
    return {"/": files.pop("index.html")} | {f"/{name}": file for name, file in files.items()}


def _live(health: Health, live: Live) -> Page:
    def page(request: Request) -> Answer:
        view = live.look(request.query.get("device", ""))
        return Answer(HTTPStatus.OK, JSON, msgspec.json.encode(Seen(health(), view)))

    return page


def _metrics(registry: CollectorRegistry) -> Page:
    def page(request: Request) -> Answer:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Answer(HTTPStatus.OK, content_type, encode(registry))

    return page


def _healthz(health: Health) -> Page:
    def page(_request: Request) -> Answer:
        trouble = health()
        status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(status, TEXT, f"{trouble or 'ok'}\n".encode())

    return page
