from datetime import UTC
from zoneinfo import ZoneInfo

import pytest

from monitor.notify.channels import without_secrets
from monitor.notify.duty import UnansweredAlarm
from monitor.notify.message import (
    HOLD,
    MAX_LINES,
    Sender,
    for_alertmanager,
    message,
    message_to_test,
)
from monitor.times import from_rfc3339

WARD = Sender("ward-3", "https://ward.example/", ZoneInfo("Europe/Berlin"))
NIGHT = from_rfc3339("2026-11-21T22:00:00Z")


def test_a_message_names_the_most_serious_alarm_first() -> None:
    alarms = [
        UnansweredAlarm("1", "bed-1", "silent", "medium", NIGHT - 60),
        UnansweredAlarm("2", "bed-2", "tachycardia", "high", NIGHT, heart_rate=183.6),
        UnansweredAlarm("3", "bed 3/ä", "asystole", "high", NIGHT - 1, pause_s=4.04),
    ]
    assert message(alarms, WARD) == (
        "HIGH: asystole, bed 3/ä and 2 more",
        "bed 3/ä: asystole, high priority, pause of 4.0 s, since 2026-11-21 22:59:59 CET\n"
        "https://ward.example/#device=bed%203%2F%C3%A4\n"
        "bed-2: tachycardia, high priority, 184/min, since 2026-11-21 23:00:00 CET\n"
        "https://ward.example/#device=bed-2\n"
        "bed-1: silent, medium priority, since 2026-11-21 22:59:00 CET\n"
        "https://ward.example/#device=bed-1\n"
        "From ward-3. Not a medical device.",
    )
    alone = message(alarms[:1], Sender("ward-3", zone=UTC))
    assert alone == (
        "MEDIUM: silent, bed-1",
        "bed-1: silent, medium priority, since 2026-11-21 21:59:00 UTC\n"
        "From ward-3. Not a medical device.",
    )
    many = [UnansweredAlarm(str(i), f"bed-{i}", "silent", "medium", NIGHT) for i in range(50)]
    assert message(many, WARD).body.count("silent") == MAX_LINES
    assert "\nand 30 more\n" in message(many, WARD).body
    assert "more" not in message(many[:MAX_LINES], WARD).body
    assert message(many[:2], WARD).title.endswith(" and 1 more")


def test_a_name_that_cannot_be_printed_forges_no_line() -> None:
    alarm = UnansweredAlarm("1", "bed\n7\u202e", "silent", "low", NIGHT)
    for text in (*message([alarm], WARD), *message_to_test(Sender("a\nb"), NIGHT)):
        assert all(line.isprintable() for line in text.split("\n"))
        assert "7" not in text.split("\n")


def test_alertmanager_is_told_until_when_an_alarm_holds_and_what_is_over() -> None:
    ahead = UnansweredAlarm("1", "bed-1", "silent", "medium", NIGHT + 60)  # by its device's clock
    over = UnansweredAlarm("2", "bed-2", "silent", "medium", NIGHT - 60)
    again = UnansweredAlarm("3", "bed-1", "silent", "medium", NIGHT - 60)
    firing, ended = for_alertmanager([ahead], [over, again], Sender("ward-3"), NIGHT)
    assert from_rfc3339(firing["startsAt"]) < NIGHT
    assert from_rfc3339(firing["endsAt"]) == NIGHT + HOLD
    assert firing["labels"]["device"] == "bed-1"
    assert from_rfc3339(ended["startsAt"]) == NIGHT - 60
    assert from_rfc3339(ended["endsAt"]) == NIGHT
    assert ended["labels"] == firing["labels"] | {"device": "bed-2"}
    assert "generatorURL" not in firing


@pytest.mark.parametrize(
    ("text", "url", "said"),
    [
        ("no route to mail.example", "mailtos://u:pw@mail.example", "no route to ***"),
        ("POST /a1b2c3/d4e5 failed", "json://h/a1b2c3/d4e5", "POST /***/*** failed"),
        ("key p ss", "ntfy://key:p%20ss@h", "*** ***"),
        ("token abc%2Fdef, abc/def", "x://h?token=abc%2Fdef", "*** ***, ***"),
        ("it took 200 ms", "json://h:80/", "it took 200 ms"),
        ("bad url x://h/token!", "x://h/token!", "bad url ***"),
    ],
)
def test_no_part_of_a_url_is_in_what_is_said_of_it(text: str, url: str, said: str) -> None:
    assert without_secrets(text, url) == said
