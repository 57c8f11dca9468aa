"""The real daemon in a process of its own."""

import os
import subprocess
import sys
import urllib.request
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self

from tests.harness.brokers import end
from tests.harness.ports import free_port
from tests.harness.waiting import WITHIN, wait_until


class RunningDaemon:
    """`ecg-monitor run`, `ecg-monitor segment` or `ecg-train learn`, from `with` to its end.

    Settings are named as in the environment, without `ECG_MONITOR_`; other variables of the
    environment are given separately. `module` may be another that runs the program.

    Attributes:
        address: host and port of its metrics.
        log: the file that it logs to.
        process: the process.
    """

    process: subprocess.Popen[bytes]

    def __init__(
        self,
        folder: Path,
        broker: str,
        variables: dict[str, str] | None = None,
        /,
        command: str = "run",
        module: str | None = None,
        **settings: str,
    ) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.log = folder / ("daemon.log" if command == "run" else f"{command}.log")
        module = module or ("train" if command == "learn" else "monitor")
        self._command = [sys.executable, "-m", module, command]
        own = {name: value for name, value in os.environ.items() if "ECG_MONITOR_" not in name}
        given = {"MQTT__BROKER": broker, "MQTT__CLIENT_ID": "test", "METRICS__PORT": str(port)}
        given |= {"SEGMENT__PORT": str(port), "SEGMENT__JOURNAL": str(folder / "journal.db")}
        given |= {"LEARN__PORT": str(port), "LEARN__JOURNAL": str(folder / "learn.db")}
        given |= {"HISTORY__FILE": str(folder / "history.db")}
        given |= {"NOTIFY__JOURNAL": str(folder / "notify.db")}
        given |= {"ALARM__WINDOW": "10", "ALARM__RAISE_AT": "3", "ALARM__CLEAR_AT": "0"}
        self._environment = own | (variables or {})
        for name, value in (given | settings).items():
            self._environment[f"ECG_MONITOR_{name}"] = value

    def start(self) -> Self:
        """Start it, and do not wait until it is healthy."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stderr=log)
        return self

    def __enter__(self) -> Self:
        self.start()
        try:
            wait_until(
                lambda: self.process.poll() is not None or self.healthy(), said=self.log.read_text
            )
            assert self.process.poll() is None, self.log.read_text()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def healthy(self) -> bool:
        """Return whether `/healthz` says that it is."""
        return self._ask_health()[0] == 200

    def health(self) -> str:
        """Return what `/healthz` says; nothing while nobody answers."""
        return self._ask_health()[1]

    def _ask_health(self) -> tuple[int, str]:
        with closing(HTTPConnection(self.address, timeout=WITHIN)) as connection:
            try:
                connection.request("GET", "/healthz")
                answer = connection.getresponse()
                return answer.status, answer.read().decode().strip()
            except (OSError, HTTPException):  # it is not there, or ends as it answers
                return 0, ""

    def metrics(self) -> str:
        """Return the page that Prometheus reads."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=WITHIN) as page:
            return str(page.read().decode())

    def value(self, series: str) -> float:
        """Return the value of a series, named as on the page: `name` or `name{label="value"}`."""
        lines = (line.rpartition(" ") for line in self.metrics().splitlines())
        return next(float(value) for name, _, value in lines if name == series)

    def wait_until(self, series: str, least: float) -> None:
        """Wait until a series has reached the value `least`."""
        wait_until(
            lambda: self.value(series) >= least,
            said=lambda: f"{series} is {self.value(series)}, not {least}",
        )

    def stop(self) -> int:
        """Stop it with SIGTERM and return its exit code."""
        return end(self.process)


def ending(folder: Path, settings: dict[str, str]) -> tuple[int, str]:
    """Return the exit code of a daemon that must end by itself, and the last line of its log."""
    daemon = RunningDaemon(folder, settings["MQTT__BROKER"], **settings)
    daemon.log.write_text("")
    daemon.start()
    try:
        code = daemon.process.wait(WITHIN)
    finally:
        daemon.process.kill()
        daemon.process.wait()
    log = daemon.log.read_text()
    assert "Traceback" not in log
    return code, log.splitlines()[-1]
