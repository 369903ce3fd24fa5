"""Fits a straight line by gradient descent, as a script job: standard library only, checkpoints, metrics, and a clean stop.

The environment variables are the whole contract with cloud-train; outside of it the program works in its own folder.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

STEPS = int(os.environ.get("STEPS", "2000"))
CHECKPOINT_EVERY = 500
STOPPED = 143  # 128 + SIGTERM: stopped as told, with its work saved


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    checkpoints = Path(os.environ.get("CLOUD_TRAIN_CHECKPOINTS", "checkpoints"))
    state = load(os.environ.get("CLOUD_TRAIN_RESUME"))
    with Path(os.environ.get("CLOUD_TRAIN_METRICS", "metrics.jsonl")).open("a", encoding="utf-8") as metrics:
        while state["step"] < STEPS and not stop:
            loss = train_one_step(state)
            if state["step"] % 100 == 0:
                print(f"step {state['step']}: loss {loss:.6f}", flush=True)
                print(json.dumps({"step": state["step"], "split": "train", "name": "loss", "value": loss}), file=metrics, flush=True)
            if state["step"] % CHECKPOINT_EVERY == 0:
                save(state, checkpoints)
    if stop:
        save(state, checkpoints)
        sys.exit(STOPPED)
    model = Path(os.environ.get("CLOUD_TRAIN_MODEL", "model"))
    model.mkdir(parents=True, exist_ok=True)
    (model / "line.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
    print(f"the line is y = {state['slope']:.3f} x + {state['intercept']:.3f}; the data came from y = 3 x + 1")


def train_one_step(state: dict[str, float]) -> float:
    """One step on 32 noisy points of y = 3 x + 1, drawn from a seed that is the step's number; returns the mean squared error."""
    draw = random.Random(int(state["step"]))
    points = [(x, 3 * x + 1 + draw.gauss(0, 0.1)) for x in (draw.uniform(-1, 1) for _ in range(32))]
    errors = [(x, state["slope"] * x + state["intercept"] - y) for x, y in points]
    state["slope"] -= 0.05 * sum(2 * error * x for x, error in errors) / len(errors)
    state["intercept"] -= 0.05 * sum(2 * error for _, error in errors) / len(errors)
    state["step"] += 1
    return sum(error**2 for _, error in errors) / len(errors)


def load(folder: str | None) -> dict[str, float]:
    """The state of the checkpoint in ``folder``, or a fresh one."""
    if not folder:
        return {"step": 0, "slope": 0.0, "intercept": 0.0}
    state: dict[str, float] = json.loads((Path(folder) / "state.json").read_text(encoding="utf-8"))
    print(f"resuming from step {state['step']}", flush=True)
    return state


def save(state: dict[str, float], checkpoints: Path) -> None:
    """Write a checkpoint under another name, then rename it: under its final name it is always complete."""
    final = checkpoints / f"step-{state['step']}"
    if final.exists():
        return
    temporary = checkpoints / f".step-{state['step']}.tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    (temporary / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
    temporary.rename(final)


if __name__ == "__main__":
    main()
