"""What goes out in which order, whatever the broker says to it."""

from types import SimpleNamespace

from monitor.mqtt.outbox import Outbox, Publication


def cause() -> SimpleNamespace:
    return SimpleNamespace(waiting=0, arrived=0.0)


def alert(payload: bytes, device: str = "1", because: SimpleNamespace | None = None) -> Publication:
    return Publication(f"ecg/{device}/alerts", payload, cause=because)


def state(payload: bytes, device: str = "1", because: SimpleNamespace | None = None) -> Publication:
    return Publication(f"ecg/{device}/alarm", payload, retain=True, cause=because)


def hand_over(outbox: Outbox, first_mid: int = 1) -> list[bytes]:
    """Hand over what can be, under consecutive identifiers, and return the payloads."""
    payloads: list[bytes] = []
    while (publication := outbox.take()) is not None:
        outbox.hand_over(publication, first_mid + len(payloads))
        payloads.append(publication.payload)
    return payloads


def test_alerts_come_before_states_and_devices_do_not_wait_for_each_other() -> None:
    outbox = Outbox()
    for device in "12":
        outbox.add(state(b"state", device))
        outbox.add(alert(b"alert", device))
    outbox.add(state(b"state 3", "3"))
    assert hand_over(outbox) == [b"alert", b"alert", b"state 3"]
    assert (len(outbox), outbox.under_way) == (5, 3)
    outbox.acknowledge(2)
    assert hand_over(outbox, 4) == [b"state"]


def test_a_state_waits_until_every_alert_of_its_device_is_accepted() -> None:
    outbox = Outbox()
    outbox.add(alert(b"raised"))
    outbox.add(state(b"alarm"))
    outbox.add(alert(b"cleared"))
    outbox.add(state(b"ok"))
    assert hand_over(outbox) == [b"raised"]
    outbox.acknowledge(1)
    assert hand_over(outbox, 2) == [b"cleared"]
    outbox.acknowledge(2)
    assert hand_over(outbox, 3) == [b"ok"]
    outbox.acknowledge(3)
    assert (len(outbox), outbox.size) == (0, 0)


def test_a_refused_state_is_not_published_after_a_newer_one() -> None:
    outbox = Outbox()
    old, new = cause(), cause()
    outbox.add(state(b"old", because=old))
    assert hand_over(outbox) == [b"old"]
    outbox.add(state(b"new", because=new))
    assert hand_over(outbox) == []  # one at a time
    outbox.refuse(1)
    assert (outbox.refused, len(outbox), hand_over(outbox)) == (1, 1, [])
    outbox.retry()
    assert hand_over(outbox, 2) == [b"new"]
    assert (old.waiting, new.waiting) == (1, 1)
    outbox.acknowledge(2)
    assert (old.waiting, new.waiting, len(outbox), outbox.size) == (0, 0, 0, 0)


def test_a_refused_alert_holds_up_what_comes_after_it_and_no_other_device() -> None:
    outbox = Outbox()
    outbox.add(alert(b"raised"))
    assert hand_over(outbox) == [b"raised"]
    outbox.refuse(1)
    outbox.add(alert(b"cleared"))
    outbox.add(state(b"ok"))
    outbox.add(alert(b"other", "2"))
    assert hand_over(outbox, 2) == [b"other"]
    outbox.retry()
    assert hand_over(outbox, 3) == [b"raised"]
    outbox.acknowledge(3)
    assert hand_over(outbox, 4) == [b"cleared"]


def test_what_was_under_way_on_a_lost_connection_goes_out_again_in_its_order() -> None:
    outbox = Outbox()
    for device in "12":
        outbox.add(alert(b"raised", device))
        outbox.add(alert(b"cleared", device))
    assert hand_over(outbox) == [b"raised", b"raised"]
    outbox.lose()
    assert (outbox.under_way, len(outbox)) == (0, 4)
    assert hand_over(outbox) == [b"raised", b"raised"]
    assert outbox.acknowledge(99) is None  # of the lost connection


def test_nothing_is_kept_of_devices_with_nothing_to_publish() -> None:
    outbox = Outbox()
    for device in map(str, range(100)):
        outbox.add(alert(b"raised", device))
        outbox.add(state(b"alarm", device))
    mid = 1
    while (publication := outbox.take()) is not None:
        outbox.hand_over(publication, mid)
        outbox.acknowledge(mid)
        mid += 1
    assert mid == 201
    assert not any(vars(outbox).values())


def test_a_state_that_is_withdrawn_goes_out_no_more_and_nothing_waits_for_it() -> None:
    outbox, waiting = Outbox(), cause()
    outbox.add(state(b"alarm", because=waiting))
    outbox.withdraw("ecg/1/alarm")
    outbox.withdraw("ecg/2/alarm")
    assert hand_over(outbox) == []
    assert (waiting.waiting, len(outbox), outbox.size) == (0, 0, 0)


def test_states_that_are_held_let_alerts_and_one_lane_pass() -> None:
    outbox = Outbox()
    outbox.add(state(b"alarm"))
    outbox.add(alert(b"raised", "2"))
    outbox.add(state(b"online", "our"))
    assert outbox.take("ecg/none") is not None
    publication = outbox.take("ecg/our")
    assert publication is not None and publication.payload == b"online"
    assert outbox.take("ecg/our") is None
    assert hand_over(outbox) == [b"alarm"]
