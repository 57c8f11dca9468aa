"""What is served over HTTP, to whom, and under which rules."""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from email.message import Message
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from monitor.alarms.messages import Alert, encode
from monitor.alarms.operator_requests import Shelve
from monitor.errors import ConfigurationError
from monitor.history.writer import HistoryWriter
from monitor.metrics import Metrics
from monitor.settings import HistorySettings
from monitor.times import rfc3339
from monitor.web import server as web
from monitor.web.live_feed import LiveFeed
from monitor.web.routes import FILES, actions, health_and_metrics, routes
from monitor.web.server import MAX_BODY, TEXT, THREADS, Answer, Request, Route, Site, serve
from tests.harness.waiting import WITHIN

TOKEN = "a-token-that-nobody-guesses"  # noqa: S105


class Server:
    """What is served, and what it answers."""

    def __init__(
        self,
        health: Callable[[], str | None],
        host: str = "127.0.0.1",
        token: str | None = None,
    ) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.live = LiveFeed(["ecg/{device}/beats"])
        self.done: list[bytes] = []
        self.health, self.standby = health, False
        site = Site(
            health_and_metrics(self.metrics.registry, self)
            | routes(health, self.live, None, token is not None),
            {"/api/act": self._act},
            token,
            ["monitor.ward.example"],
        )
        self.host, self.port = serve(host, 0, site)

    def stalled(self) -> str | None:
        return None

    def _act(self, request: Request) -> Answer:
        self.done.append(request.body)
        return Answer(HTTPStatus.OK, TEXT, b"done\n")

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, /, **headers: str
    ) -> tuple[int, str, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WITHIN)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            said = answer.read()
            return answer.status, answer.headers["Content-Type"], said, dict(answer.headers)
        finally:
            connection.close()


@pytest.fixture
def trouble() -> list[str | None]:
    return [None]


@pytest.fixture
def server(trouble: list[str | None]) -> Server:
    return Server(lambda: trouble[0])


def test_metrics_are_served_as_they_stand(server: Server) -> None:
    server.metrics.received.inc(7)
    status, kind, body, _ = server.ask("/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert b"\necg_monitor_beats_received_total 7.0\n" in body
    status, kind, body, _ = server.ask("/metrics?x=1", Accept="application/openmetrics-text")
    assert status == 200
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_health_tells_what_is_wrong(server: Server, trouble: list[str | None]) -> None:
    assert server.ask("/healthz")[:3] == (200, "text/plain; charset=utf-8", b"ok\n")
    trouble[0] = "no connection to host:1883: refused é"
    status, _, body, _ = server.ask("/healthz")
    assert (status, body.decode()) == (503, "no connection to host:1883: refused é\n")
    trouble[0] = None
    assert server.ask("/healthz")[0] == 200


def test_a_loop_that_turns_is_alive_whatever_its_broker_does(
    server: Server, trouble: list[str | None]
) -> None:
    trouble[0] = "no connection"
    assert (server.ask("/livez")[0], server.ask("/healthz")[0]) == (200, 503)


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/healthz/x", "/%00", "/%e9"])
def test_other_pages_are_not_there_and_it_says_which_are(server: Server, path: str) -> None:
    status, _, body, _ = server.ask(path)
    assert (status, body) == (404, b"try /, /metrics or /healthz\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/nowhere"])
def test_head_is_get_without_the_body(server: Server, trouble: list[str | None], path: str) -> None:
    trouble[0] = "gone"
    got, head = server.ask(path), server.ask(path, "HEAD")
    assert (got[0], got[1]) == (head[0], head[1])
    assert got[3]["Content-Length"] == head[3]["Content-Length"] == str(len(got[2]))
    assert head[2] == b""


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    assert server.ask("/metrics", method)[0] == 501
    assert server.ask("/api/act", method)[0] == 501


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/api/live", "/nowhere"])
def test_what_is_read_cannot_be_written(server: Server, path: str) -> None:
    assert server.ask(path, "POST", b"{}")[0] == 405


def test_it_says_nothing_of_python(server: Server) -> None:
    assert server.ask("/metrics")[3]["Server"].strip() == "ecg-monitor"


def test_who_hangs_up_is_no_news(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection((server.host, server.port)) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert client.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(3):  # it looks at all its connections for each
        assert server.ask("/healthz")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "\udcff", "é" * 300, "x" * 300])
def test_an_address_that_cannot_be_bound_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"metrics\.host = ") as refused:
        serve(host, 0, Site({}, {}, None))
    assert "\n" not in str(refused.value)


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"metrics.port = {port}: .* in use\);"):
            serve("127.0.0.1", port, Site({}, {}, None))


# -- the page


PAGE = ["/", *(f"/{file.name}" for file in FILES.iterdir() if file.name != "index.html")]


@pytest.mark.parametrize("path", PAGE)
def test_the_page_may_run_its_own_files_and_nothing_else(server: Server, path: str) -> None:
    status, kind, body, headers = server.ask(path)
    assert status == 200
    assert kind in (
        "text/html; charset=utf-8",
        "text/css; charset=utf-8",
        "text/javascript; charset=utf-8",
    )
    assert body
    rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["trusted-types"] == "clock"  # which knows the address of one worker
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert not [name for name in headers if name.startswith("Access-Control")]


def test_no_file_of_the_page_makes_markup_of_text_or_fetches_from_elsewhere() -> None:
    files = {file.name: file.read_text() for file in FILES.iterdir()}
    assert {"index.html", "style.css", "main.js"} <= set(files)
    for name, text in files.items():
        markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|DOMParser|srcdoc"
        assert not re.search(markup, text), name
        elsewhere = re.findall(r"(?:https?:)?//[a-z][a-z0-9.-]+\.[a-z]+[^\s\"']*", text)
        assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}, name
    assert not re.search(r"<script>|<style|\son[a-z]+=|style=", files["index.html"])


HERE = [
    *("localhost", "localhost:9464", "127.0.0.1:9464", "127.0.0.2", "[::1]:9464", "LocalHost"),
    *(
        "192.0.2.1",
        "[2001:db8::1]:9464",
    ),  # nobody can point an address elsewhere, as they can a name
    socket.gethostname(),
    *("Monitor.ward.example", "monitor.ward.example:9464"),  # in metrics.allowed_hosts
]
OTHERS = [
    "evil.example",
    "evil.example:9464",
    "127.0.0.1.evil.example",
    "ward.example",
    "",
    "[::1",
    "::",
]


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/live"])
@pytest.mark.parametrize("host", HERE)
def test_whoever_sits_at_this_machine_sees_the_page(server: Server, path: str, host: str) -> None:
    assert server.ask(path, Host=host)[0] == 200


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/live", "/api/live?device=bed-1"])
@pytest.mark.parametrize("host", OTHERS)
def test_a_site_whose_name_leads_here_sees_nothing(server: Server, path: str, host: str) -> None:
    status, _, body, _ = server.ask(path, Host=host)
    assert (status, body) == (
        421,
        b"this host name is not in metrics.allowed_hosts; use localhost or an IP address\n",
    )


def test_prometheus_may_call_it_what_it_likes(server: Server) -> None:
    assert server.ask("/metrics", Host="monitor:9464")[0] == 200
    assert server.ask("/healthz", Host="monitor:9464")[0] == 200


@pytest.mark.parametrize("bound", ["0.0.0.0", "::1", "::"])  # noqa: S104
def test_hosts_are_checked_whatever_the_address(bound: str) -> None:
    server = Server(lambda: None, bound)
    assert server.ask("/", Host="monitor.ward.example")[0] == 200
    assert server.ask("/", Host="evil.example")[0] == 421
    assert server.ask("/")[0] == 200


@pytest.mark.parametrize("bound", ["::", "[::]"])
def test_both_families_are_served(bound: str) -> None:
    server = Server(lambda: None, bound)
    for host in ("127.0.0.1", "::1"):
        connection = http.client.HTTPConnection(host, server.port, timeout=WITHIN)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()


def test_all_addresses_are_those_of_ipv4_where_the_kernel_has_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web, "_has_ipv6", lambda: False)
    server = Server(lambda: None, "::")
    assert server.host == "0.0.0.0"  # noqa: S104
    assert server.ask("/healthz")[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_is_told_nothing(server: Server, site: str) -> None:
    assert server.ask("/api/live", Sec_Fetch_Site=site)[0] == 403
    assert server.ask("/api/live", "HEAD", Sec_Fetch_Site=site)[0] == 403
    assert server.ask("/", Sec_Fetch_Site=site)[0] == 200  # a link to it may stand anywhere


@pytest.mark.parametrize(
    "query", ["device=" + "x" * 60000, "device=%ff%00", "&".join("abcdefg" * 9), "=", "device"]
)
def test_a_strange_question_is_answered(server: Server, query: str) -> None:
    status, kind, body, _ = server.ask(f"/api/live?{query}")
    assert (status, kind) == (200, "application/json")
    assert (
        body == b'{"trouble":null,"uncalled":null,"attending":false,"view":null}'
    )  # no loop turns here, so nothing was shown


# -- what changes something

RIGHT = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}


@pytest.fixture
def attended() -> Server:
    return Server(lambda: None, token=TOKEN)


def test_who_has_the_token_is_heard(attended: Server) -> None:
    assert attended.ask("/api/act", "POST", b'{"x": 1}', **RIGHT)[:3] == (200, TEXT, b"done\n")
    both = RIGHT | {"Content_Type": "application/json; charset=utf-8"}
    assert attended.ask("/api/act", "POST", b"{}", **both, Sec_Fetch_Site="same-origin")[0] == 200
    assert attended.done == [b'{"x": 1}', b"{}"]


def test_without_a_token_nothing_can_be_changed(server: Server) -> None:
    status, _, said, _ = server.ask("/api/act", "POST", b"{}", **RIGHT)
    assert (status, b"metrics.token_file" in said) == (403, True)
    for nothing in ("Bearer ", "Bearer None", ""):
        wrong = RIGHT | {"Authorization": nothing}
        assert server.ask("/api/act", "POST", b"{}", **wrong)[0] == 403
    assert server.done == []


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Authorization": f"bearer {TOKEN}"}, 401),
        ({"Authorization": "Bearer \xe9"}, 401),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=application/json"}, 415),
        ({"Content_Type": ""}, 415),
        ({"Content_Length": "x"}, 400),
        ({"Content_Length": "-1"}, 400),
        ({"Content_Length": "9" * 4000}, 413),
        ({"Host": "evil.example"}, 421),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_a_request_that_is_not_right_changes_nothing(
    attended: Server, wrong: dict[str, str], status: int
) -> None:
    answer = attended.ask("/api/act", "POST", b"{}", **(RIGHT | wrong))
    assert answer[0] == status
    assert answer[3].get("Www-Authenticate") == ("Bearer" if status == 401 else None)
    assert attended.done == []


def test_a_request_that_is_too_long_is_not_read(attended: Server) -> None:
    assert attended.ask("/api/act", "POST", b" " * MAX_BODY, **RIGHT)[0] == 200
    assert attended.ask("/api/act", "POST", b" " * (MAX_BODY + 1), **RIGHT)[0] == 413
    assert len(attended.done) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_sent_behind_a_question_is_no_request_of_its_own(
    server: Server, method: str
) -> None:
    hidden = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
    asked = (
        f"{method} /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Length: {len(hidden)}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=WITHIN) as client:
        client.sendall((asked + hidden).encode())
        with client.makefile("rb") as answers:
            said = answers.read()
    assert said.count(b"HTTP/1.1 ") == 1


def test_a_body_in_chunks_is_read_up_to_the_same_length(attended: Server) -> None:
    chunked = RIGHT | {"Transfer_Encoding": "chunked"}
    assert attended.ask("/api/act", "POST", b"2\r\n{}\r\n0\r\n\r\n", **chunked)[0] == 200
    long = b"%x\r\n%b\r\n0\r\n\r\n" % (MAX_BODY + 1, b" " * (MAX_BODY + 1))
    assert attended.ask("/api/act", "POST", long, **chunked)[0] == 413
    assert attended.done == [b"{}"]


def test_slow_clients_keep_nobody_from_an_answer(server: Server) -> None:
    """Forty clients, more than there are workers, are in the middle of their requests."""
    before = set(threading.enumerate())
    with ExitStack() as slow:
        clients = [
            slow.enter_context(socket.create_connection((server.host, server.port), timeout=WITHIN))
            for _ in range(5 * THREADS)
        ]
        for sent in b"GET /":
            for client in clients:
                client.sendall(bytes([sent]))
            for path in ("/healthz", "/metrics"):
                assert server.ask(path)[0] == 200
        assert set(threading.enumerate()) <= before


def test_the_token_is_no_part_of_an_address(attended: Server) -> None:
    kind = {"Content_Type": "application/json"}
    assert attended.ask(f"/api/act?token={TOKEN}", "POST", b"{}", **kind)[0] == 401


# -- what is answered


def asked(page: Route, body: bytes = b"", /, **query: str) -> tuple[int, str]:
    answer = page(Request(query, Message(), body))
    return answer.status, answer.body.decode()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A history of three alarms, the first of which is over."""
    file = tmp_path / "history.db"
    past = HistoryWriter(HistorySettings(), file, Metrics(CollectorRegistry()).lost)
    for number, device in enumerate(("bed-1", "bed-2", "<b>")):
        raised = Alert(
            id=f"{number:032x}",
            alarm=f"{number:032x}",
            device=device,
            event="raised",
            kind="anomaly",
            priority="medium",
            time=rfc3339(1000 * number),
            since=rfc3339(1000 * number),
            score=0.5,
            threshold=0.1,
            beats_anomalous=3,
            beats_seen=3,
            model="ecg",
            beat=[0.0] * 140,
            reconstruction=[1.0] * 140,
        )
        cleared = msgspec.structs.replace(
            raised, id=f"c{number:031x}", event="cleared", time=rfc3339(1000 * number + 500)
        )
        for alert in (raised, cleared) if number == 0 else (raised,):
            past.keep(alert, encode(alert))
    past.close(5)
    return file


def test_the_past_is_told_the_newest_first_and_each_with_its_beat(kept: Path) -> None:
    served = routes(lambda: None, LiveFeed([]), kept, False)

    def told(**query: str) -> list[str]:
        status, body = asked(served["/api/alarms"], **query)
        assert status == 200
        found = msgspec.json.decode(body)
        assert all(alarm["beat"] is None for alarm in found)
        return [alarm["device"] for alarm in found]

    assert told() == ["<b>", "bed-2", "bed-1"]
    assert told(limit="1") == ["<b>"]
    assert told(limit="-5") == ["<b>"]
    assert told(device="bed-2") == ["bed-2"]
    assert told(since=rfc3339(700)) == ["<b>", "bed-2"]
    assert told(device="' OR 1 = 1 --") == []
    status, body = asked(served["/api/alarm"], id=f"{1:032x}")
    assert (status, msgspec.json.decode(body)["reconstruction"]) == (200, [1.0] * 140)
    assert asked(served["/api/alarm"], id="nobody")[0] == 404
    assert asked(served["/api/alarm"])[0] == 404


@pytest.mark.parametrize("query", [{"since": "yesterday"}, {"limit": "x"}, {"since": ""}])
def test_a_question_about_the_past_that_is_none_is_refused(
    kept: Path, query: dict[str, str]
) -> None:
    served = routes(lambda: None, LiveFeed([]), kept, False)
    assert asked(served["/api/alarms"], **query)[0] == 400


def test_without_a_history_it_says_so(tmp_path: Path) -> None:
    gone = tmp_path / "gone.db"
    for kept, reason in ((None, "no history is kept"), (gone, "there is no history")):
        served = routes(lambda: None, LiveFeed([]), kept, False)
        for path in ("/api/alarms", "/api/alarm"):
            status, said = asked(served[path], id="x")
            assert (status, reason in said) == (404, True)


def test_what_is_asked_for_reaches_the_loop_and_its_answer_comes_back() -> None:
    heard: list[tuple[object, str | None]] = []

    def ask(request: object, device: str | None) -> Future[str | None]:
        heard.append((request, device))
        answer: Future[str | None] = Future()
        answer.set_result(None if device == "bed-1" else "no such device")
        return answer

    shelve = actions(ask)["/api/shelve"]
    body = b'{"device": "bed-1", "minutes": 5, "by": "Anna"}'
    assert asked(shelve, body) == (200, "done\n")
    assert heard == [(Shelve(5, "Anna"), "bed-1")]
    assert asked(shelve, body.replace(b"-1", b"-2")) == (409, "no such device\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"minutes": "5"}',
        b'{"minutes": 1e9}',
        b'{"minutes": -1}',
        b'{"minutes": 5, "device": 7}',
        b'{"minutes": 5, "by": ""}',
        b'{"minutes": 5, "by": "\\u001b[2J"}',
    ],
)
def test_a_request_that_cannot_be_understood_does_not_reach_the_loop(body: bytes) -> None:
    def ask(_request: object, _device: str | None) -> Future[str | None]:
        pytest.fail("it did")

    assert asked(actions(ask)["/api/shelve"], body)[0] == 400


def test_what_was_said_to_have_failed_is_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.web.routes.REQUEST_TIMEOUT", 0.05)
    answer: Future[str | None] = Future()
    shelve = actions(lambda *_: answer)["/api/shelve"]
    assert asked(shelve, b'{"device": "bed-1", "minutes": 5}')[0] == 503
    assert not answer.set_running_or_notify_cancel()
