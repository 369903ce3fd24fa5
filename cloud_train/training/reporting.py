"""Reports a training's progress: metrics of each step and validation to the run, lines of text to the log."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cloud_train.training.events import EventFile
from cloud_train.training.learner import StepResult
from cloud_train.training.ordering import Position
from cloud_train.worker.api import Run

_LINE_SECONDS = 60.0
"""Time between two lines in the log if no validation writes one."""


@dataclass
class Reporter:
    """Reports one training. In a process that does not report (``run`` is None), it does nothing."""

    run: Run | None
    samples: int
    """Samples in an epoch."""
    last_step: int
    characters: int = 0
    """Characters in a sample; 0 if it is not text."""
    events: EventFile | None = None
    _loss: float = math.nan
    _counted: int = 0
    _steps: int = 0
    _waited: float = 0.0
    _since: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)

    def stepped(self, position: Position, result: StepResult, samples: int, waited: float) -> None:
        """Log one step with ``samples`` samples, for which it waited ``waited`` seconds; the rates about once a second."""
        if self.run is None:
            return
        self._loss = result.epoch_loss
        values = {"loss": result.epoch_loss, "batch_loss": result.loss, "gradient_norm": result.gradient_norm}
        if result.epoch_accuracy is not None:
            values["accuracy"] = result.epoch_accuracy
        self._counted, self._steps, self._waited = self._counted + samples, self._steps + 1, self._waited + waited
        now = time.monotonic()
        elapsed = now - self._since
        if elapsed >= 1:
            values |= self._pace(elapsed, position)
            self._start_counting(now)
        if position.step == 1 or elapsed >= 1:
            values["learning_rate"] = result.learning_rate
            self._write_events(position, "train", values)
        self.run.log(step=position.step, epoch=self._epoch(position), split="train", **values)

    def validated(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Log a validation and print a line about it; does nothing for an incomplete one."""
        if metrics:
            self._evaluated(position, "validation", metrics, "" if math.isnan(self._loss) else f"loss {self._loss:.4f}, ")
            self._start_counting(time.monotonic())  # the rates do not include validation

    def tested(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Log the test of the finished model and print a line about it."""
        self._evaluated(position, "test", metrics)

    def _evaluated(self, position: Position, split: str, metrics: Mapping[str, float], before: str = "") -> None:
        if self.run is None:
            return
        self.run.log(step=position.step, epoch=self._epoch(position), split=split, **metrics)
        self._write_events(position, split, metrics)
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
        self._say(position, f"{before}{split} {shown}")

    def close(self) -> None:
        """Write what remains."""
        if self.events is not None:
            self.events.close()

    def _pace(self, elapsed: float, position: Position) -> dict[str, float]:
        rate = self._counted / elapsed
        left = (self.last_step - position.step) * elapsed / self._steps
        pace = {"samples_per_second": rate, "data_wait": self._waited / elapsed, "eta_seconds": left}
        if self.characters:
            pace["characters_per_second"] = rate * self.characters
        if time.monotonic() - self._said >= _LINE_SECONDS:
            self._say(position, f"loss {self._loss:.4f}, {rate:,.0f} samples/s, {_span(left)} left")
        return pace

    def _say(self, position: Position, text: str) -> None:
        self._said = time.monotonic()
        print(f"epoch {self._epoch(position):.4g}, step {position.step:,} of {self.last_step:,}: {text}", flush=True)

    def _start_counting(self, now: float) -> None:
        self._counted, self._steps, self._waited, self._since = 0, 0, 0.0, now

    def _write_events(self, position: Position, split: str, values: Mapping[str, float]) -> None:
        if self.events is not None:
            self.events.add(position.step, time.time(), {f"{split}/{name}": value for name, value in values.items()})

    def _epoch(self, position: Position) -> float:
        return position.epoch + position.consumed / self.samples


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
