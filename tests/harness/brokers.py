"""Real brokers that tests start, stop and kill, on free ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest

from monitor.commands.demo import free_port
from monitor.settings import Protocol

WITHIN = 10.0
"""Seconds that a broker may take to start or to stop."""


_OWN = [str(Path(sys.executable).parent)]
"""Where packages of Python put their programs."""


def program(name: str) -> str:
    """Return the path of a program; skip the test without it, or fail it where `CI` is set."""
    folders = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *_OWN]
    found = shutil.which(name, path=":".join(folders))
    if found is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{name} is not installed")
    return found


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the process listens on the port; fail with its log if it does not."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"nothing listens on port {port}:\n{log.read_text(errors='replace')}")


ANYBODY = "allow_anonymous true\n"


class Mosquitto:
    """A broker that keeps its port, and its store if it has one, from one start to the next.

    Attributes:
        protocol: the latest version of MQTT that it speaks.
        port: its port on the loopback address.
        url: its address for `mqtt.broker`.
        log: the file that it logs to.
    """

    protocol: Protocol = "5"

    def __init__(self, folder: Path, conf: str = ANYBODY, port: int | None = None) -> None:
        """Write the configuration; the broker is not started yet.

        Args:
            folder: where its configuration, its log and its store are kept.
            conf: lines of mosquitto.conf; a listener is added unless `port` is given.
            port: the port that `conf` listens on.
        """
        self.port = port or free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.log = folder / "mosquitto.log"
        self._conf = folder / "mosquitto.conf"
        if port is None:
            conf = f"listener {self.port} 127.0.0.1\n{conf}"
        if "user " not in conf:
            conf += "user root\n"  # started by root, it would run as a user who cannot write here
        self._conf.write_text(conf)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it listens."""
        mosquitto = program("mosquitto")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [mosquitto, "-c", str(self._conf)], stdout=log, stderr=log
            )
        wait_for(self.port, self._process, self.log)
        return self

    def stop(self) -> None:
        """Stop it and wait until it has written its store."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(WITHIN)
            self._process = None

    def reload(self) -> None:
        """Make it read its configuration again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def forget(self) -> None:
        """Stop it; without a store in its configuration, all that it held is lost."""
        self.stop()

    def kill(self) -> None:
        """Kill it: what is not in its store yet is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(WITHIN)
            self._process = None

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()


class Nats:
    """NATS, which sends retained messages beside the others.

    Attributes:
        protocol: the latest version of MQTT that it speaks.
        port: its port on the loopback address.
        url: its address for `mqtt.broker`.
    """

    protocol: Protocol = "3.1.1"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._log, self._conf = folder / "nats.log", folder / "nats.conf"
        self._conf.write_text(
            f'server_name: "test"\nlisten: "127.0.0.1:{free_port()}"\n'
            f'jetstream {{ store_dir: "{folder}/nats" }}\n'
            f'mqtt {{ listen: "127.0.0.1:{self.port}", ack_wait: "3s" }}\n'
        )

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program("nats-server"), "-c", str(self._conf)], stdout=log, stderr=log
            )
        wait_for(self.port, self._process, self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(WITHIN)
