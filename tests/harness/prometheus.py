"""A real Prometheus that scrapes a daemon."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

from tests.harness.brokers import end, program, wait_for
from tests.harness.ports import free_port
from tests.harness.waiting import WITHIN, wait_until

Labels = frozenset[tuple[str, str]]


class Prometheus:
    """Scrapes every second, within a `with` statement."""

    def __init__(
        self, folder: Path, target: str, rules: str = "groups: []", segment: str | None = None
    ) -> None:
        """Scrape `target` as the job `ecg-monitor`, and `segment` as `ecg-monitor-segment`.

        Both are of partition 0.
        """
        jobs = {"ecg-monitor": target} | ({"ecg-monitor-segment": segment} if segment else {})
        self._port = free_port()
        self._folder = folder / "prometheus"
        self._folder.mkdir()
        self._log = self._folder / "log"
        (self._folder / "rules.yml").write_text(rules)
        (self._folder / "prometheus.yml").write_text(
            yaml.dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": ["rules.yml"],
                    "scrape_configs": [
                        {
                            "job_name": job,
                            "static_configs": [
                                {"targets": [address], "labels": {"partition": "0"}}
                            ],
                        }
                        for job, address in jobs.items()
                    ],
                }
            )
        )

    def __enter__(self) -> Self:
        prometheus = program("prometheus")
        arguments = {
            "config.file": str(self._folder / "prometheus.yml"),
            "storage.tsdb.path": str(self._folder / "data"),
            "web.listen-address": f"127.0.0.1:{self._port}",
        }
        command = [prometheus, *(f"--{name}={value}" for name, value in arguments.items())]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(self._port, self._process, self._log)
            wait_until(self._ready, said=self._log.read_text)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=WITHIN):
                return True
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return False
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        end(self._process)

    def ask(self, path: str, **parameters: str | float) -> Any:
        """Return the data of an answer of the HTTP API."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=WITHIN) as page:
            return json.load(page)["data"]

    def query(self, expression: str, at: float) -> dict[Labels, float]:
        """Return the values of an expression at a time, by labels other than job and instance."""
        found = self.ask("query", query=expression, time=at)["result"]
        own = {"__name__", "job", "instance"}
        return {
            frozenset((k, v) for k, v in row["metric"].items() if k not in own): float(
                row["value"][1]
            )
            for row in found
        }

    def wait_for(self, expression: str, least: float) -> None:
        """Wait until an expression has reached the value `least`."""
        wait_until(
            lambda: max(self.query(expression, time.time()).values(), default=0) >= least,
            said=lambda: f"{expression} does not reach {least}:\n{self._log.read_text()}",
        )
