"""Whose a device is: taken over, given away, and what two have found at once put together."""

from collections import deque
from collections.abc import Collection
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from monitor.alarms import messages
from monitor.alarms.decisions import Alarms, Decision, Policy
from monitor.alarms.device import Shelf, as_it_stands
from monitor.alarms.kinds import ANOMALOUS, NORMAL, POOR
from monitor.alarms.messages import Acknowledged, Kind, Priority
from monitor.alarms.ownership import Ownership

EPOCH = 1_795_262_400.0


class Tree:
    """A broker: what is retained of one device, each message in the order of its publication."""

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.alerts: list[Decision] = []


class Monitor:
    """One of the monitors on a tree; what others make known comes to it when it is let."""

    def __init__(
        self, name: str, tree: Tree, policy: Policy, latching: Collection[Kind | Priority] = ()
    ) -> None:
        self.alarms = Alarms(policy, latching)
        self.alarms.save_all()
        self.ownership = Ownership(self.alarms, name)
        self.beats: deque[tuple[int, int]] = deque()
        self.name, self._tree, self._read = name, tree, 0

    @property
    def behind(self) -> int:
        return len(self._tree.published) - self._read

    def listen(self, now: float = 0.0) -> None:
        saved = messages.decode_alarm(self._tree.published[self._read])
        self._read += 1
        heard = self.ownership.hear("bed-7", saved, now, EPOCH + now)
        self._tree.alerts += heard.decisions
        if heard.unsaved and "bed-7" not in self.ownership.settling:
            self.save()

    def observe(self, now: float = 0.0, redelivered: bool = False) -> None:
        """Take in the next beat that is for us."""
        number, verdict = self.beats.popleft()
        if "bed-7" in self.ownership.elsewhere:
            self.ownership.claim("bed-7", now)
        device = self.alarms.hear("bed-7", now)
        decisions = self.alarms.observe(
            "bed-7", device, bytes([verdict]), [number + 1], [EPOCH + now], number, redelivered
        )
        self._tree.alerts += decisions
        if device.unsaved and "bed-7" not in self.ownership.settling:
            self.save()

    def settle(self) -> None:
        """Make known what was taken over, for nobody answers any more."""
        if self.ownership.settled(1e9):
            self.save()

    def save(self) -> None:
        device = self.alarms.find("bed-7")
        assert device is not None
        device.unsaved = False
        saved = as_it_stands("bed-7", device, EPOCH, self.name)
        self._tree.published.append(messages.encode(saved))


THREE_OF_TEN = Policy(window=10, raise_at=3)


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.fixture
def old(tree: Tree) -> Monitor:
    """A monitor that has raised an alarm, which somebody has seen, and which is shelved."""
    monitor = Monitor("ward-0", tree, THREE_OF_TEN)
    monitor.beats.extend((i, ANOMALOUS if i > 6 else NORMAL) for i in range(10))
    while monitor.beats:
        monitor.observe()
    (raised,) = tree.alerts
    monitor.alarms.acknowledge(raised.id, Acknowledged("Anna", "2026-11-21T12:00:00.000Z"))
    monitor.alarms.shelve("bed-7", Shelf("Ben", EPOCH, EPOCH + 600))
    monitor.save()
    return monitor


@pytest.fixture
def new(tree: Tree) -> Monitor:
    return Monitor("ward-1", tree, THREE_OF_TEN)


def catch_up(*monitors: Monitor) -> None:
    """Let all hear what was made known, until nobody answers."""
    while any(each.behind or each.ownership.settling for each in monitors):
        for each in monitors:
            while each.behind:
                each.listen()
        for each in monitors:
            each.settle()


def test_a_device_that_is_heard_elsewhere_goes_on_there(
    tree: Tree, old: Monitor, new: Monitor
) -> None:
    catch_up(old, new)
    assert new.alarms.find("bed-7") is None
    assert new.alarms.fall_silent(1e6, 0.0, EPOCH, 10) == []
    new.beats.append((10, NORMAL))
    new.observe()
    catch_up(old, new)
    assert old.alarms.find("bed-7") is None
    assert not old.alarms.open and not old.alarms.shelved
    assert old.alarms.fall_silent(1e6, 0.0, EPOCH, 10) == []
    device = new.alarms.devices["bed-7"]
    (raised,) = tree.alerts
    assert device.open["anomaly"].id == raised.id
    assert device.open["anomaly"].acknowledged == Acknowledged("Anna", "2026-11-21T12:00:00.000Z")
    assert device.shelf is not None and new.alarms.shelved == {"bed-7": device}
    assert device.anomaly.window() == "......xxx."
    new.beats.extend((i, NORMAL) for i in range(11, 20))
    while new.beats:
        new.observe()
    assert [(each.event, each.alarm) for each in tree.alerts] == [
        ("raised", raised.id),
        ("cleared", raised.id),
    ]


def test_what_both_heard_at_once_is_put_together(tree: Tree, old: Monitor, new: Monitor) -> None:
    catch_up(new)
    new.beats.append((12, NORMAL))
    new.observe()
    old.beats.extend([(10, ANOMALOUS), (11, POOR), (11, POOR)])
    while old.beats:
        old.observe()
    catch_up(old, new)
    device = new.alarms.devices["bed-7"]
    assert old.alarms.find("bed-7") is None
    assert device.anomaly.window() == "......xxx.x"[-10:]
    assert device.quality is not None and device.quality.window()[-1] == "x"
    assert device.seq == 12
    assert messages.decode_alarm(tree.published[-1]).monitor == "ward-1"
    assert len(tree.alerts) == 1


def test_one_of_two_alarms_that_were_raised_at_once_is_cleared(tree: Tree) -> None:
    one, other = (Monitor(name, tree, THREE_OF_TEN) for name in ("ward-0", "ward-1"))
    one.beats.extend((i, ANOMALOUS) for i in range(3))
    other.beats.extend((i, ANOMALOUS) for i in range(3, 6))
    for each in (one, other):
        while each.beats:
            each.observe()
    catch_up(one, other)
    assert [each.event for each in tree.alerts] == ["raised", "raised", "cleared"]
    assert tree.alerts[2].alarm == tree.alerts[0].id
    assert other.alarms.open == {tree.alerts[1].id: "bed-7"}
    assert one.alarms.open == {}


def test_an_alarm_that_is_over_does_not_come_back_with_an_old_message(
    tree: Tree, old: Monitor, new: Monitor
) -> None:
    catch_up(old, new)
    new.beats.extend((i, NORMAL) for i in range(10, 20))
    while new.beats:
        new.observe()
    old.save()  # it was on its way
    catch_up(old, new)
    assert [each.event for each in tree.alerts] == ["raised", "cleared"]
    assert messages.decode_alarm(tree.published[-1]).alarms == []


@pytest.mark.usefixtures("old")
def test_a_monitor_that_comes_back_takes_its_own_and_leaves_the_others(tree: Tree) -> None:
    saved = messages.decode_alarm(tree.published[-1])
    again, another = (Monitor(name, tree, THREE_OF_TEN) for name in ("ward-0", "ward-1"))
    assert again.ownership.recover(saved, 0.0)
    assert not another.ownership.recover(saved, 0.0)
    assert len(again.alarms.open) == 1 and not another.alarms.open


def test_one_of_two_keeps_a_device_whose_alarm_somebody_removes(old: Monitor, new: Monitor) -> None:
    catch_up(old, new)
    assert old.ownership.hear("bed-7", None, 0.0, EPOCH).unsaved
    new.ownership.hear("bed-7", None, 0.0, EPOCH)
    assert not new.ownership.elsewhere


@pytest.mark.parametrize("seen_late", [False, True])
def test_a_latched_alarm_goes_along_and_is_cleared_once_somebody_has_seen_it(
    tree: Tree, seen_late: bool
) -> None:
    """Or, before it was latched, somebody has seen it at the one that watched the device before."""
    latching: list[Kind | Priority] = ["anomaly"]
    old, new = (Monitor(f"ward-{i}", tree, THREE_OF_TEN, latching) for i in range(2))
    old.beats.extend((i, ANOMALOUS if i < 3 else NORMAL) for i in range(13))
    while old.beats and not (seen_late and len(old.beats) == 1):
        old.observe()
    old.save()
    while new.behind:
        new.listen()
    new.beats.append((12 if seen_late else 13, NORMAL))
    new.observe()
    device = new.alarms.devices["bed-7"]
    (raised,) = tree.alerts
    alarm = device.open["anomaly"]
    assert (alarm.id, alarm.state.latched) == (raised.id, True)
    seen = Acknowledged("Anna", "2026-11-21T12:00:00.000Z")
    if seen_late:
        assert old.alarms.acknowledge(raised.id, seen) == []
        old.save()
    else:
        tree.alerts += new.alarms.acknowledge(raised.id, seen)
    catch_up(old, new)
    assert [(each.event, each.alarm) for each in tree.alerts[1:]] == [("cleared", raised.id)]
    assert not device.open
    assert not new.alarms.open


class Partitions(RuleBasedStateMachine):
    """Two or three monitors of a device that is sent to one and then to another; all is late.

    Fewer beats than are remembered: the window holds all of them, so that none may be missing.
    """

    policy = Policy(window=60, raise_at=3, clear_at=0)

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree()
        self.monitors = [Monitor(f"ward-{i}", self.tree, self.policy) for i in range(3)]
        self.numbers, self.sent, self.to = count(), 0, self.monitors[0]

    @rule(to=st.integers(0, 2))
    def the_partitions_change(self, to: int) -> None:
        self.to = self.monitors[to]

    @rule(verdict=st.sampled_from([NORMAL, ANOMALOUS]))
    def the_device_sends(self, verdict: int) -> None:
        if (number := next(self.numbers)) < 30:
            self.sent += verdict == ANOMALOUS
            self.to.beats.append((number, verdict))

    @rule(which=st.integers(0, 2))
    def a_monitor_takes_in_a_beat(self, which: int) -> None:
        if self.monitors[which].beats:
            self.monitors[which].observe()

    @rule(which=st.integers(0, 2))
    def a_monitor_hears_of_the_others(self, which: int) -> None:
        if self.monitors[which].behind:
            self.monitors[which].listen()

    @rule(which=st.integers(0, 2))
    def a_monitor_makes_known_what_it_took_over(self, which: int) -> None:
        self.monitors[which].settle()

    def teardown(self) -> None:
        for each in self.monitors:
            while each.beats:
                each.observe()
                catch_up(*self.monitors)
        catch_up(*self.monitors)
        owners = [each for each in self.monitors if each.alarms.find("bed-7") is not None]
        if not self.tree.published:
            assert not owners
            return
        (owner,) = owners
        assert messages.decode_alarm(self.tree.published[-1]).monitor == owner.name
        device = owner.alarms.find("bed-7")
        assert device is not None
        assert device.anomaly.bits.bit_count() == self.sent
        assert ("anomaly" in device.open) == (self.sent >= 3)
        owner.beats.extend((1000 + i, NORMAL) for i in range(60))
        while owner.beats:
            owner.observe()
        # Repeats are known by their id.
        raised = {each.id for each in self.tree.alerts if each.event == "raised"}
        cleared = {each.id: each.alarm for each in self.tree.alerts if each.event == "cleared"}
        assert sorted(cleared.values()) == sorted(raised)


TestPartitions = Partitions.TestCase
TestPartitions.settings = settings(max_examples=150, stateful_step_count=50)
