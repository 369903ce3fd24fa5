"""The classic small CNN in Keras, on scikit-learn's handwritten digits: checkpoints, metrics, a clean stop, and a resumption.

The environment variables are the whole contract with cloud-train; outside of it the program works in its own folder.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's remarks about the CPU are no errors

import keras
import numpy as np
from sklearn.datasets import load_digits

EPOCHS = int(os.environ.get("EPOCHS", "5"))
BATCH_SIZE, SIZE, VALIDATION = 32, 28, 360
STOPPED = 143  # 128 + SIGTERM: stopped as told, with its work saved
STATE = "model.keras"


class Keeper(keras.callbacks.Callback):
    """Writes metrics and a checkpoint after each epoch, and stops the training when it was told to."""

    def __init__(self, checkpoints: Path, metrics: Path, steps_per_epoch: int) -> None:
        super().__init__()
        self._checkpoints, self._metrics, self._steps = checkpoints, metrics, steps_per_epoch
        self.told_to_stop = False
        signal.signal(signal.SIGTERM, self._stop)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras calls this with the epoch's number, from 0, and its metrics."""
        step = (epoch + 1) * self._steps
        with self._metrics.open("a", encoding="utf-8") as file:
            for name, value in (logs or {}).items():
                split, short = ("validation", name.removeprefix("val_")) if name.startswith("val_") else ("train", name)
                values = {"step": step, "epoch": epoch + 1, "time": time.time(), "split": split, "name": short, "value": float(value)}
                print(json.dumps(values), file=file)
        save(self.model, self._checkpoints, step)
        if self.told_to_stop:
            self.model.stop_training = True

    def _stop(self, _number: int, _frame: object) -> None:
        self.told_to_stop = True  # an epoch takes seconds: it is finished and saved first


def main() -> None:
    """Train, from the newest checkpoint if there is one."""
    keras.utils.set_random_seed(0)
    images, labels = digits()
    train, validation = (images[:-VALIDATION], labels[:-VALIDATION]), (images[-VALIDATION:], labels[-VALIDATION:])
    steps_per_epoch = -(-len(train[1]) // BATCH_SIZE)
    network, first_epoch = load(os.environ.get("CLOUD_TRAIN_RESUME"), steps_per_epoch)
    checkpoints = Path(os.environ.get("CLOUD_TRAIN_CHECKPOINTS", "checkpoints"))
    keeper = Keeper(checkpoints, Path(os.environ.get("CLOUD_TRAIN_METRICS", "metrics.jsonl")), steps_per_epoch)
    for epoch in range(first_epoch, EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(train[1]))  # the same in whatever attempt the epoch is trained
        network.fit(
            train[0][order],
            train[1][order],
            batch_size=BATCH_SIZE,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,
            validation_data=validation,
            verbose=2,
            callbacks=[keeper],
        )
        if keeper.told_to_stop:
            sys.exit(STOPPED)
    model = Path(os.environ.get("CLOUD_TRAIN_MODEL", "model"))
    model.mkdir(parents=True, exist_ok=True)
    network.save(model / STATE)
    loss, accuracy = network.evaluate(*validation, verbose=0)
    print(f"validation loss {loss:.4f}, accuracy {accuracy:.2%}", flush=True)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images of shape (samples, SIZE, SIZE, 1) from 0 to 1, and labels from 0 to 9."""
    data = load_digits()
    pixels = np.asarray(data.images, np.float32)[..., None] / 16
    images = np.asarray(keras.ops.image.resize(pixels, (SIZE, SIZE)))
    return images, np.asarray(data.target, np.int64)


def fresh_network() -> keras.Model:
    """Two convolutions with pooling, and one dense layer."""
    network = keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss, metrics=["accuracy"])
    return network


def load(folder: str | None, steps_per_epoch: int) -> tuple[keras.Model, int]:
    """The network of the checkpoint in ``folder`` with its optimizer, or a fresh one; and the epoch that comes next, from 0."""
    if not folder:
        return fresh_network(), 0
    step = int(Path(folder).name.rpartition("-")[2])
    print(f"resuming from step {step}", flush=True)
    return keras.saving.load_model(Path(folder) / STATE), step // steps_per_epoch


def save(network: keras.Model, checkpoints: Path, step: int) -> None:
    """Write a checkpoint under another name, then rename it: under its final name it is always complete."""
    final = checkpoints / f"step-{step}"
    if final.exists():
        return
    temporary = checkpoints / f".step-{step}.tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    network.save(temporary / STATE)
    temporary.rename(final)


if __name__ == "__main__":
    main()
