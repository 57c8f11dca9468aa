"""Real brokers that tests start, stop and kill, on free ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NoReturn, Self

import pytest

from monitor.settings import Protocol
from tests.harness.ports import free_port

WITHIN = 90.0
"""Seconds that a broker may take to start or to stop: RabbitMQ takes 7 s on two idle cores, and
took more than 30 where twenty others had work for them."""


_OWN = [str(Path(sys.executable).parent)]
"""Where packages of Python put their programs."""


def program(name: str) -> str:
    """Return the path of a program; skip the test without it, or fail it where `CI` is set."""
    folders = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *_OWN]
    found = shutil.which(name, path=":".join(folders))
    if found is None:
        missing(name)
    return found


def missing(name: str) -> NoReturn:
    """Skip the test that needs something which is not installed, or fail it where `CI` is set."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")


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


def end(process: subprocess.Popen[bytes], by: signal.Signals = signal.SIGTERM) -> int:
    """End a process with a signal, and return its exit code; kill it if it does not end in time."""
    process.send_signal(by)
    try:
        return process.wait(WITHIN)
    finally:
        process.kill()
        process.wait()


ANYBODY = "allow_anonymous true\n"


class Broker(ABC):
    """A broker that keeps its port, and its store if it has one, from one start to the next.

    Attributes:
        protocol: the latest version of MQTT that it speaks.
        patience: seconds within which it delivers again what a killed client had.
        port: its port on the loopback address.
        url: its address for `mqtt.broker`.
        log: the file that it logs to.
    """

    protocol: Protocol = "3.1.1"
    patience = 10.0

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Set up a broker that is not started yet, on a free port unless one is given.

        Args:
            folder: where its configuration, its log and its store are kept.
            port: the port that it listens on.
        """
        self.port = port or free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._folder = folder
        self.log = folder / f"{type(self).__name__.lower()}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs it."""

    def start(self) -> Self:
        """Start it and wait until it listens."""
        command = self._command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._cwd(), env=self._environment()
            )
        try:
            wait_for(self.port, self._process, self.log)
        except BaseException:
            self.kill()
            raise
        return self

    def _cwd(self) -> Path:
        return self._folder

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def stop(self) -> None:
        """Stop it and wait until it has written its store, if it has one."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it: what is not in its store yet is lost."""
        self._end(signal.SIGKILL)

    def _end(self, by: signal.Signals) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            end(process, by)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Mosquitto(Broker):
    """mosquitto, which speaks MQTT 5 and does most of what the daemon hopes for."""

    protocol: Protocol = "5"

    def __init__(self, folder: Path, conf: str = ANYBODY, port: int | None = None) -> None:
        """Write the configuration; the broker is not started yet.

        Args:
            folder: where its configuration, its log and its store are kept.
            conf: lines of mosquitto.conf; a listener is added unless `port` is given.
            port: the port that `conf` listens on.
        """
        super().__init__(folder, port)
        self._conf = folder / "mosquitto.conf"
        if port is None:
            conf = f"listener {self.port} 127.0.0.1\n{conf}"
        if "user " not in conf:
            conf += "user root\n"  # started by root, it would run as a user who cannot write here
        self._conf.write_text(conf)

    def _command(self) -> list[str]:
        return [program("mosquitto"), "-c", str(self._conf)]

    def reload(self) -> None:
        """Make it read its configuration again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def forget(self) -> None:
        """Stop it; without a store in its configuration, all that it held is lost."""
        self.stop()


class Nats(Broker):
    """NATS, which sends retained messages beside the others."""

    patience = 35.0  # `ack_wait` is 30 s where it is not set, whoever is connected

    def __init__(self, folder: Path, ack_wait: str = "3s") -> None:
        """`ack_wait` is how long it waits for an acknowledgement before it delivers again."""
        super().__init__(folder)
        self._ack_wait = ack_wait

    def _command(self) -> list[str]:
        conf = self._folder / "nats.conf"
        conf.write_text(
            f'server_name: "test"\nlisten: "127.0.0.1:{free_port()}"\n'
            f'jetstream {{ store_dir: "{self._folder}/nats" }}\n'
            f'mqtt {{ listen: "127.0.0.1:{self.port}", ack_wait: "{self._ack_wait}" }}\n'
        )
        return [program("nats-server"), "-c", str(conf)]


class RabbitMQ(Broker):
    """RabbitMQ with its plugin for MQTT, as Debian has both."""

    _epmd: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start Erlang's name server, which would else outlive us, and the broker."""
        self._names = free_port()
        epmd = [program("epmd"), "-port", str(self._names)]
        with self.log.open("ab") as log:
            self._epmd = subprocess.Popen(epmd, stderr=log, env=self._environment())
        wait_for(self._names, self._epmd, self.log)
        return super().start()

    def _end(self, by: signal.Signals) -> None:
        if by == signal.SIGKILL and self._process is not None:  # the script, but not its child
            by = signal.SIGTERM
        super()._end(by)
        if self._epmd is not None:
            end(self._epmd)
            self._epmd = None

    def _command(self) -> list[str]:
        (self._folder / "rabbitmq.conf").write_text(
            "listeners.tcp = none\n"
            f"mqtt.listeners.tcp.default = 127.0.0.1:{self.port}\n"
            "mqtt.allow_anonymous = true\n"
            "log.console = true\n"
        )
        (self._folder / "plugins").write_text("[rabbitmq_mqtt].\n")
        program("rabbitmq-server")
        # That one is Debian's, which insists on its own user and folders.
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "HOME": str(self._folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._names),
            "RABBITMQ_NODENAME": "test@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self._folder),
            "RABBITMQ_LOG_BASE": str(self._folder),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
        }


AEDES = Path(__file__).parents[2] / "build" / "aedes"
"""Where `make brokers` has npm install it."""


class Aedes(Broker):
    """aedes, a library for Node.js, with the store in memory that it comes with."""

    def _command(self) -> list[str]:
        node = program("node")
        if not (AEDES / "node_modules" / "aedes").is_dir():
            missing("aedes")
        script = (
            "import { Aedes } from 'aedes'; import { createServer } from 'node:net';"
            "const broker = await Aedes.createBroker();"
            f"createServer(broker.handle).listen({self.port}, '127.0.0.1')"
        )
        return [node, "--input-type=module", "--eval", script]

    def _cwd(self) -> Path:
        return AEDES  # the import is resolved from there


class Amqtt(Broker):
    """amqtt, which `ecg-monitor demo` embeds, as it comes: with all that it holds in memory."""

    def _command(self) -> list[str]:
        conf = self._folder / "amqtt.yaml"
        conf.write_text(
            f"listeners: {{ default: {{ type: tcp, bind: '127.0.0.1:{self.port}' }} }}\n"
            "plugins:\n"
            "  amqtt.plugins.authentication.AnonymousAuthPlugin: { allow_anonymous: true }\n"
        )
        return [program("amqtt"), "-c", str(conf)]
