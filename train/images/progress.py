"""Show the progress of a training: a bar on a terminal, a line for each epoch elsewhere."""

import time

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
    """Shows the progress of `fit` on standard error, and stores the duration of each epoch.

    Attributes:
        seconds: of each epoch.
    """

    def __init__(self, title: str) -> None:
        """Create a progress display with this title."""
        super().__init__()
        self.seconds: list[float] = []
        self._title = title
        console = Console(stderr=True)
        self._live = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total} epochs"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
            disable=not self._live,
        )

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Show the empty bar."""
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=self.params["epochs"], losses="")

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Start the epoch's clock."""
        self._start = time.perf_counter()
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Move the bar."""
        done = self._epoch + (batch + 1) / self.params["steps"]
        self._bar.update(self._task, completed=done)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Show the losses."""
        self.seconds.append(time.perf_counter() - self._start)
        losses = "  ".join(f"{name} {value:.5g}" for name, value in (logs or {}).items())
        self._bar.update(self._task, completed=epoch + 1, losses=losses)
        if not self._live:
            line = f"{self._title}: epoch {epoch + 1} of {self.params['epochs']}, "
            self._bar.console.print(f"{line}{self.seconds[-1]:.1f} s, {losses}", highlight=False)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Leave the full bar."""
        self._bar.stop()
