"""The classic CNN in Keras on TensorFlow, trained endlessly; prints the end time of each step. ``--jit`` compiles it with XLA.

Keras slices the batches from arrays in memory itself, through tf.data with prefetching.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from benchmarks._mnist import read_mnist

BATCH_SIZE, LEARNING_RATE = 128, 1e-3


def main() -> None:
    """Train until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the four IDX files")
    parser.add_argument("--jit", action="store_true", help="compile the step with XLA")
    arguments = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    pixels, digits = read_mnist(arguments.folder)
    whole = len(digits) // BATCH_SIZE * BATCH_SIZE  # XLA compiles a shorter last batch anew, which takes longer than a turn
    pixels, digits = pixels[:whole], digits[:whole]
    network = keras.Sequential(
        [
            keras.layers.Input((*pixels.shape[1:], 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=loss, jit_compile=arguments.jit)
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=_note)
    network.fit(pixels[..., None].astype("float32") / 255, digits, BATCH_SIZE, epochs=10**6, verbose=0, callbacks=[clock])


def _note(batch: int, logs: Any) -> None:
    print(f"{time.time():.6f}", flush=True)


if __name__ == "__main__":
    main()
