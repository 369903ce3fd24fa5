"""jobs/python-docs-rnn.yaml compared with an n-gram model on the same split, in bits per character.

The n-gram model sees the 3 preceding characters and uses the better of two smoothings (``benchmarks.ngram``).
Bound: the recurrent network needs fewer bits.
"""

import tempfile
from pathlib import Path

from benchmarks._measure import report, verdict
from benchmarks.digits_accuracy import metric, train
from benchmarks.ngram import CONTEXT, python_docs_bits
from cloud_train.run import layout
from cloud_train.run.record import AttemptStatus


def main() -> None:
    """Train, count, and print both results."""
    with tempfile.TemporaryDirectory() as name:
        run = train(Path(name), "python-docs-rnn")
        bits = metric(run, "validation", "bits_per_character")
        path = run / layout.status(1)
        status = AttemptStatus.from_json(path.read_bytes(), str(path))
    ngrams = python_docs_bits()
    rows = [f"| n-gram with {CONTEXT} characters of context, {smoothing} | {value:.3f} |" for smoothing, value in ngrams.items()]
    minutes = ((status.ended or status.started) - status.started) / 60
    report(
        "python-docs: bits per character on the validation text",
        "\n".join(["| model | bits per character |", "|---|---:|", *rows, f"| jobs/python-docs-rnn.yaml, gru | {bits[-1]:.3f} |"]),
        f"After each of its {len(bits)} epochs: {', '.join(f'{value:.3f}' for value in bits)}. Training took {minutes:.1f} minutes.",
        verdict("bits per character of the recurrent network", bits[-1], min(ngrams.values())),
    )


if __name__ == "__main__":
    main()
