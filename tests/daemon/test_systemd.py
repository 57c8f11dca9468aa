"""systemd hears what it is told, and nobody minds where there is no systemd."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.daemon import systemd
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.waiting import WITHIN


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(WITHIN)
        yield listening


def test_states_arrive_one_by_one(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    for state in (systemd.READY, systemd.ALIVE, systemd.ALIVE, systemd.STOPPING):
        systemd.tell(state)
        assert manager.recv(100).decode() == state


def test_a_socket_without_a_file_is_found_too(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.bind(f"\0{tmp_path}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{tmp_path}")
    systemd.tell(systemd.READY)
    assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "/there/is/no/such/socket", "@nobody"])
def test_where_nobody_listens_nothing_happens(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.tell(systemd.READY)


def test_a_manager_that_does_not_read_never_holds_us_up(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    for _ in range(5000):
        systemd.tell(systemd.ALIVE)


def test_the_daemon_is_ready_alive_and_stopping(manager: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    with (
        Mosquitto(tmp_path) as broker,
        RunningDaemon(tmp_path, broker.url, {"NOTIFY_SOCKET": path}) as daemon,
    ):
        assert [manager.recv(100) for _ in range(4)] == [b"READY=1"] + 3 * [b"WATCHDOG=1"]
        daemon.stop()
        last = manager.recv(100)
        while last == b"WATCHDOG=1":
            last = manager.recv(100)
    assert last == b"STOPPING=1"


def test_a_daemon_whose_loop_hangs_is_not_alive(manager: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    with (
        Mosquitto(tmp_path) as broker,
        RunningDaemon(tmp_path, broker.url, {"NOTIFY_SOCKET": path}) as daemon,
    ):
        daemon.process.send_signal(signal.SIGSTOP)
        manager.settimeout(2)
        with pytest.raises(TimeoutError):
            for _ in range(100):
                manager.recv(100)
        daemon.process.send_signal(signal.SIGCONT)
