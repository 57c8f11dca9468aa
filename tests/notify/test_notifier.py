"""The notifier against real receivers: a mail server, webhooks, an Alertmanager."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from monitor.errors import ConfigurationError
from monitor.metrics import Metrics
from monitor.notify import line, notifier
from monitor.notify.duty import UnansweredAlarm
from monitor.notify.journal import Journal
from monitor.notify.notifier import Notifier
from monitor.settings import NotifySettings, Settings
from tests.harness.receivers import Alertmanager, MailServer, Webhook
from tests.harness.waiting import WITHIN, wait_until


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PAUSE", 0.0)


def asystole(alert: str = "1", device: str = "bed-7") -> UnansweredAlarm:
    return UnansweredAlarm(alert, device, "asystole", "high", time.time() - 5, pause_s=4.25)


class Calls:
    """A notifier, and its metrics."""

    def __init__(self, folder: Path, **people: dict[str, Any]) -> None:
        page = "https://ward.example/monitor/"
        notify = NotifySettings.model_validate(
            {"people": people, "journal": folder / "notify.db", "page": page, "timezone": "UTC"}
        )
        metrics = Metrics(CollectorRegistry())
        self.notifier = Notifier(Settings(notify=notify), metrics)
        self.value: Callable[..., float | None] = metrics.registry.get_sample_value

    def count(self, outcome: str) -> float:
        name = "ecg_monitor_notifications_total"
        return self.value(name, {"outcome": outcome}) or 0.0

    def wait(self, outcome: str, count: float) -> None:
        """Wait until so many calls had an outcome; of those that fail, more may come at once."""
        wait_until(lambda: self.count(outcome) >= count, said=lambda: self.count(outcome))
        assert self.count(outcome) == count or outcome == "failed"

    @property
    def undelivered(self) -> float:
        return self.value("ecg_monitor_notifications_undelivered") or 0.0


@contextmanager
def calling(folder: Path, **people: dict[str, Any]) -> Iterator[Calls]:
    calls = Calls(folder, **people)
    try:
        yield calls
    finally:
        calls.notifier.close(WITHIN)


def test_a_mail_says_what_is_the_matter_and_nothing_in_it_is_taken_for_html(tmp_path: Path) -> None:
    with MailServer() as server, calling(tmp_path, nurse={"url": server.url}) as calls:
        calls.notifier.update("<b>*7*", (asystole(device="<b>*7*"),))
        calls.notifier.begin()
        wait_until(lambda: server.mails)
        calls.wait("delivered", 1)
        (mail,) = server.mails
        assert mail["Subject"] == "HIGH: asystole, <b>*7*"
        assert mail["To"] == "nurse@ward.example"
        parts = {
            part.get_content_type(): part.get_content()
            for part in mail.walk()
            if part.is_attachment() or not part.is_multipart()
        }
        for kind, text in parts.items():
            assert "asystole, high priority, pause of 4.2 s, since 20" in text
            assert "UTC" in text
            assert "https://ward.example/monitor/#device=%3Cb%3E%2A7%2A" in text
            assert "Not a medical device." in text
            assert ("<b>" in text) == (kind == "text/plain")


def test_alarms_that_come_together_are_one_call_and_each_is_called_of_once(tmp_path: Path) -> None:
    with Webhook() as webhook, calling(tmp_path, nurse={"url": webhook.url}) as calls:
        for number in range(30):
            calls.notifier.update(f"bed-{number}", (asystole(str(number), f"bed-{number}"),))
        calls.notifier.begin()
        calls.wait("delivered", 30)
        assert [each["title"] for each in webhook.received] == ["HIGH: asystole, bed-0 and 29 more"]
        assert webhook.received[0]["message"].count("asystole") == 20
        assert "\nand 10 more\n" in webhook.received[0]["message"]
        calls.notifier.update("bed-0", (asystole("0", "bed-0"), asystole("new", "bed-0")))
        calls.wait("delivered", 31)
        assert len(webhook.received) == 2


def test_what_a_service_does_not_take_as_a_whole_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apprise.plugins.custom_json import NotifyJSON

    monkeypatch.setattr(NotifyJSON, "body_maxlen", 200)
    with Webhook() as webhook, calling(tmp_path, nurse={"url": webhook.url}) as calls:
        alarms = [asystole(str(number), f"bed-{number}") for number in range(5)]
        alarms[3] = msgspec.structs.replace(alarms[3], since=0.0)
        calls.notifier.update("bed", tuple(alarms))
        calls.notifier.begin()
        calls.wait("delivered", 5)
        (sent,) = webhook.received
        assert len(sent["message"]) <= 200
        assert sent["message"].startswith("bed-3: asystole, high priority")


def test_a_webhook_that_hangs_or_fails_delays_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "TIME_LIMIT", 1.0)
    monkeypatch.setattr(line, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(line, "LONGEST_PAUSE", 1.0)
    with Webhook(hanging=True) as hangs, Webhook(500) as fails, Webhook() as works:
        people = {"hangs": hangs, "fails": fails, "works": works}
        urls = {name: {"url": each.url} for name, each in people.items()}
        with capture_logs() as logs, calling(tmp_path, **urls) as calls:
            calls.notifier.update("bed-7", (asystole(),))
            calls.notifier.begin()
            wait_until(lambda: works.received)
            calls.wait("delivered", 1)
            wait_until(lambda: len(hangs.received) > 1 and len(fails.received) > 1)
            wait_until(lambda: calls.undelivered == 2)
            assert calls.notifier.trouble() == "Cannot be called: hangs, fails"
            # An alarm that comes meanwhile goes to who can be called, at once.
            calls.notifier.update("bed-8", (asystole("2", "bed-8"),))
            calls.wait("delivered", 2)
            hangs.hanging.clear()
            fails.status = 200
            wait_until(lambda: calls.notifier.trouble() is None and calls.undelivered == 0)
            calls.wait("delivered", 6)
            assert calls.count("missed") == 0
            # On a machine that stands still for a second, a call that works takes too long, too.
            said = " ".join(each["message"] for each in works.received)
            assert "bed-7" in said and "bed-8" in said
    said = str([each for each in logs if each["event"] != "called"])
    assert "it takes longer than" in said
    assert "error=500" in said
    assert "s3cret" not in str(logs)


def test_what_cannot_be_delivered_before_it_ends_is_counted_as_missed(tmp_path: Path) -> None:
    with Webhook(503) as webhook, calling(tmp_path, nurse={"url": webhook.url}) as calls:
        calls.notifier.update("bed-7", (asystole(),))
        calls.notifier.begin()
        calls.wait("failed", 1)
        wait_until(lambda: calls.undelivered == 1)
        calls.notifier.update("bed-7", ())
        calls.wait("missed", 1)
        wait_until(lambda: calls.undelivered == 0)
        assert calls.count("delivered") == 0


def test_the_next_is_called_where_nobody_has_acknowledged(tmp_path: Path) -> None:
    with Webhook() as nurse, Webhook() as doctor:
        later: dict[str, Any] = {"url": doctor.url, "after": 100}
        with calling(tmp_path, nurse={"url": nurse.url}, doctor=later) as calls:
            calls.notifier.update("bed-7", (asystole(),))
            calls.notifier.update("bed-8", (asystole("2", "bed-8"),))
            calls.notifier.begin()
            calls.wait("delivered", 2)
            calls.notifier.update("bed-8", ())  # somebody has acknowledged it
            assert not doctor.received
            calls.notifier._ahead += 101  # seconds later
            wait_until(lambda: doctor.received)
            assert "bed-8" not in doctor.received[0]["message"]
            calls.wait("delivered", 3)
            assert calls.count("missed") == 0


def test_the_next_is_called_where_nobody_can_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "FIRST_PAUSE", 0.01)
    with Webhook(500) as nurse, Webhook() as doctor:
        later: dict[str, Any] = {"url": doctor.url, "after": 3600}
        with calling(tmp_path, nurse={"url": nurse.url}, doctor=later) as calls:
            calls.notifier.update("bed-7", (asystole(),))
            calls.notifier.begin()
            wait_until(lambda: doctor.received)
            assert len(nurse.received) >= line.UNREACHABLE_AFTER


def test_after_a_restart_nobody_is_called_twice_and_the_next_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Webhook() as nurse, Webhook(500) as doctor:
        urls: dict[str, dict[str, Any]] = {
            "nurse": {"url": nurse.url},
            "doctor": {"url": doctor.url, "after": 100},
        }
        with calling(tmp_path, **urls) as calls:
            calls.notifier.update("bed-7", (asystole(),))
            calls.notifier.begin()
            calls.wait("delivered", 1)
        later = time.time() + 101
        doctor.status = 200
        monkeypatch.setattr(time, "time", lambda: later)
        with calling(tmp_path, **urls) as calls:
            calls.notifier.update("bed-7", (asystole(),))
            calls.notifier.begin()
            calls.wait("delivered", 1)
            assert (len(nurse.received), len(doctor.received)) == (1, 1)


def test_what_cannot_be_written_down_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell, full = Journal.tell, threading.Event()

    def fails_while_full(*arguments: Any) -> None:
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        tell(*arguments)

    monkeypatch.setattr(Journal, "tell", fails_while_full)
    full.set()
    with Webhook() as webhook:
        with capture_logs() as logs, calling(tmp_path, nurse={"url": webhook.url}) as calls:
            calls.notifier.update("bed-7", (asystole("1"),))
            calls.notifier.begin()
            calls.wait("delivered", 1)
            calls.notifier.update("bed-8", (asystole("2", "bed-8"),))
            calls.wait("delivered", 2)
            full.clear()
            with closing(Journal(tmp_path / "notify.db")) as file:
                wait_until(lambda: len(file.told("nurse")) == 2)
        assert len([each for each in logs if "cannot be written" in each["event"]]) == 1
        assert len(webhook.received) == 2


def test_alertmanager_holds_what_wants_somebody_across_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Alertmanager(tmp_path) as manager:
        people = {"duty": {"url": manager.url, "kinds": ["asystole"]}}
        with calling(tmp_path, **people) as calls:
            silent = UnansweredAlarm("9", "bed-9", "silent", "medium", time.time())
            calls.notifier.update("bed-7", (asystole(),))
            calls.notifier.update("bed-8", (asystole("2", "bed-8"),))
            calls.notifier.update("bed-9", (silent,))
            calls.notifier.begin()
            manager.wait_for(("bed-7", "asystole", "high"), ("bed-8", "asystole", "high"))
            calls.wait("delivered", 2)
            (alert, _) = sorted(manager.active(), key=lambda each: str(each["labels"]["device"]))
            assert alert["generatorURL"] == "https://ward.example/monitor/#device=bed-7"
            assert set(alert["labels"]) == {"alertname", "device", "kind", "priority", "monitor"}
            assert "pause of 4.2 s" in alert["annotations"]["description"]
            assert "Not a medical device." in alert["annotations"]["description"]
        monkeypatch.setattr(line, "REPEAT", 0.5)
        with calling(tmp_path, **people) as calls:  # bed-8 has cleared meanwhile
            calls.notifier.update("bed-7", (asystole(),))
            calls.notifier.begin()
            manager.wait_for(("bed-7", "asystole", "high"))
            ends = manager.active()[0]["endsAt"]
            wait_until(lambda: manager.active()[0]["endsAt"] > ends)  # told again in time
            # The same alarm again, by another alert: it stands, though the first one is over.
            calls.notifier.update("bed-7", (asystole("3"),))
            calls.wait("delivered", 1)
            manager.wait_for(("bed-7", "asystole", "high"))
            calls.notifier.update("bed-7", ())
            manager.wait_for()
            assert calls.count("failed") == 0


def test_a_line_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    for url, said in (
        ("nosuch://s3cret@host", "one URL that Apprise knows"),
        ("alertmanager+http://s3cret:pw@host:99999", "alertmanager+http://HOST:PORT"),
        ("json://s3cret@localhost, json://s3cret@localhost:1", "one URL that Apprise knows"),
        ("alertmanager+ftp://s3cret@host", "alertmanager+http://HOST:PORT"),
    ):
        with pytest.raises(ConfigurationError, match=r"notify\.people\.nurse\.url = ") as refused:
            Calls(tmp_path, nurse={"url": url})
        assert said in str(refused.value)
        assert "s3cret" not in str(refused.value)
    (tmp_path / "notify.db").write_text("no database, of more than a hundred bytes" * 9)
    with pytest.raises(ConfigurationError, match=r"notify\.journal"):
        Calls(tmp_path, nurse={"url": "json://localhost"})


def test_a_fault_of_ours_does_not_leave_everybody_uncalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "STALL_TIMEOUT", 0.5)
    monkeypatch.setattr(notifier, "RETRY_INTERVAL", 0.1)
    with Webhook() as webhook, calling(tmp_path, nurse={"url": webhook.url}) as calls:
        look = calls.notifier._look
        monkeypatch.setattr(calls.notifier, "_look", lambda *_: 1 // 0)
        calls.notifier.update("bed-7", (asystole(),))
        calls.notifier.begin()
        wait_until(lambda: "stuck" in (calls.notifier.trouble() or ""))
        assert calls.undelivered == 1
        monkeypatch.setattr(calls.notifier, "_look", look)
        calls.wait("delivered", 1)
        wait_until(lambda: calls.notifier.trouble() is None)
