"""What fits together in a job and what does not, beyond what ``test_job_loading`` shows of it."""

from pathlib import Path

import pytest

from cloud_train.data.mnist import SHA256 as MNIST_SHA256
from cloud_train.spec.problems import JobFileError, Problem
from tests.job.conftest import Load

HASH = "a" * 64
CNN = "model: {kind: cnn}\ndata: {dataset: digits}\n"
RNN = "model: {kind: rnn}\ndata: {dataset: python-docs}\n"
SCRIPT = "model: {kind: script, command: x}\n"


def problems(load: Load, text: str) -> tuple[Problem, ...]:
    with pytest.raises(JobFileError) as caught:
        load(f"name: a\n{text}")
    return caught.value.problems


def one_problem(load: Load, text: str) -> Problem:
    (problem,) = problems(load, text)
    return problem


def image(data: str) -> str:
    return f"model: {{kind: cnn}}\ndata: {{dataset: {data}}}\n"


def text_of(data: str, model: str = "") -> str:
    return f"model: {{kind: rnn{model}}}\ndata: {{dataset: {data}}}\n"


@pytest.mark.parametrize(
    ("text", "at", "message", "expected"),
    [
        (image("python-docs"), "python-docs", "model kind 'cnn' cannot learn from 'python-docs'", "digits, mnist, cifar10 or images"),
        (image("sequences, path: ."), "sequences", "model kind 'cnn' cannot learn from 'sequences'", "digits, mnist, cifar10 or images"),
        (text_of("mnist"), "mnist", "model kind 'rnn' cannot learn from 'mnist'", "python-docs, text, sequences or series"),
        (text_of("images, path: ."), "images", "model kind 'rnn' cannot learn from 'images'", "sequences"),
        ("model: {kind: rnn}\n", "rnn", "model kind 'rnn' needs data, but the job has none", "sequences"),
    ],
)
def test_a_model_learns_from_what_it_is_made_for(load: Load, text: str, at: str, message: str, expected: str) -> None:
    problem = one_problem(load, text)
    assert problem.place.source[(problem.place.column or 0) - 1 :].startswith(at)
    assert problem.message == message
    assert expected in problem.expected


MISTAKES = [
    # the model
    ("model: {kind: cnn, network: resnet18, blocks: [{filters: 3}]}\ndata: {dataset: cifar10}", "[{", "resnet18 has a fixed set of blocks"),
    ("model: {kind: cnn, network: resnet50, head: flatten}\ndata: {dataset: cifar10}", "flatten", "resnet50 always ends with"),
    ("model: {kind: cnn, stem: small}\ndata: {dataset: cifar10}", "small", "only a residual net has a stem"),
    (text_of("python-docs", ", bidirectional: true"), "true", "a language model must not see what comes"),
    (text_of("sequences, path: no", ", cell: linear, bidirectional: true"), "true", "the linear cell reads in only one direction"),
    (SCRIPT + "resources: {processes: 2}", "2}", "processes has no effect: a script starts its own processes"),
    # where data comes from
    (image("images"), "{dataset", "'path' is missing in 'data'"),
    (text_of("text"), "{dataset", "'path' is missing in 'data'"),
    (text_of("sequences"), "{dataset", "'path' is missing in 'data'"),
    (text_of("text, url: 'https://x/a.txt'"), "'https", "a download needs a checksum"),
    (text_of("text, path: a.txt, url: 'https://x/a.txt'"), "'https", "path and url cannot both be set"),
    (text_of(f"text, sha256: {HASH}"), "{dataset", "'path' is missing in 'data'"),
    (
        image(f"mnist, path: ., sha256: {{{', '.join(f'{name}: {HASH}' for name in MNIST_SHA256)}}}"),
        "{train",
        "sha256 has no effect on data at a path",
    ),
    (image(f"cifar10, path: ., sha256: {HASH}"), "aaa", "sha256 has no effect on data at a path"),
    (image("cifar10, url: 'https://me:secret@x/c'"), "'https", "a user name or password must not be in a job file"),
    (image("cifar10, path: ~nobody-of-this-name/x"), "~nobody", "unknown home folder '~nobody-of-this-name'"),
    # pixels
    (image("digits, normalize: {mean: [0, 0], std: [1]}"), "[0", "mean has 2 values, but the images have 1 channel"),
    (image("cifar10, normalize: {mean: [0], std: [1, 1]}"), "[1", "std has 2 values, but the images have 3 channels"),
    (image("cifar10, normalize: {mean: [0, 0, 0], std: [1]}"), "[1", "mean has 3 values, but std has 1"),
    (image("images, path: no, channels: 1, normalize: {mean: [0, 0, 0], std: [1]}"), "[0", "mean has 3 values"),
    (image("digits, size: 8, augment: {crop: 8}"), "8}", "a shift of 8 pixels moves images of 8×8 pixels out of the frame"),
    (image("mnist, augment: {crop: 28}"), "28}", "a shift of 28 pixels moves images of 28×28 pixels out of the frame"),
    (image("cifar10, augment: {crop: 32}"), "32}", "a shift of 32 pixels moves images of 32×32 pixels out of the frame"),
    (image("images, path: ., classes: 1"), "1}", "one class leaves nothing to learn"),
    # the optimizer and the schedule
    (CNN + "train: {optimizer: {nesterov: true}}", "true", "nesterov is for sgd, not adam"),
    (CNN + "train: {optimizer: {name: adamw, momentum: 0.9}}", "0.9", "momentum is for sgd and rmsprop, not adamw"),
    (CNN + "train: {optimizer: {name: sgd, betas: [0.9, 0.99]}}", "[", "betas is for adam and adamw, not sgd"),
    (CNN + "train: {schedule: {name: step, restart: 1 epoch}}", "1 epoch", "restart has no effect on the schedule step"),
    (CNN + "train: {schedule: {name: cosine, growth: 2}}", "2", "growth has no effect without restart"),
    (CNN + "train: {schedule: {name: cosine, restart: 5 min}}", "5 min", "a learning rate that depends on time is not reproducible"),
    (CNN + "train: {optimizer: {smoothing: 0}}", "0}", "smoothing is for rmsprop, not adam"),
    (CNN + "train: {optimizer: {smoothing: 0.5}}", "0.5", "smoothing is for rmsprop, not adam"),
    (CNN + "train: {optimizer: {name: sgd, eps: 1e-3}}", "1e-3", "eps is for adam, adamw, rmsprop and adagrad, not sgd"),
    (CNN + "train: {optimizer: {name: sgd, momentum: 0, nesterov: true}}", "true", "nesterov needs momentum"),
    (CNN + "train: {schedule: {name: cosine, every: 3 epochs}}", "3", "every has no effect on the schedule cosine"),
    (CNN + "train: {schedule: {factor: 0.5}}", "0.5", "factor has no effect on the schedule constant"),
    (CNN + "train: {schedule: {name: step, peak_at: 0.5}}", "0.5", "peak_at has no effect on the schedule step"),
    (CNN + "train: {schedule: {name: one-cycle, warmup: 1 epoch}}", "1 epoch", "one-cycle has its own rise"),
    (CNN + "train: {schedule: {name: cosine, warmup: 5 min}}", "5", "a learning rate that depends on time"),
    (CNN + "train: {schedule: {name: step, every: 5 min}}", "5", "a learning rate that depends on time"),
    # how it is trained
    (CNN + "train: {evaluate: 5 min}", "5", "validation at intervals of time"),
    (CNN + "train: {batch_size: 8, accumulate: 9}", "9", "a batch of 8 cannot be split into 9 parts"),
    (
        CNN + "train: {batch_size: 8, accumulate: 3}\nresources: {processes: 3}",
        "3}",
        "a batch of 8 cannot be split into 3 parts for each of 3 processes",
    ),
    (CNN + "train: {batch_size: 2}\nresources: {processes: 3}", "3", "3 processes cannot share a batch of 2"),
    (CNN + "train: {carry_state: true}", "true", "carry_state needs text, which continues from sequence to sequence"),
    (
        text_of("sequences, path: no") + "train: {carry_state: true}",
        "true",
        "carry_state needs text, which continues from sequence to sequence",
    ),
    (RNN + "train: {carry_state: true, accumulate: 2}", "true", "carry_state cannot be combined with accumulate"),
    (RNN + "train: {carry_state: true, batch_size: 9}\nresources: {processes: 2}", "true", "a batch of 9 sequences cannot be divided"),
    (RNN + "train: {carry_state: true, batch_size: 5000}", "true", "carry_state reads 5,000 sequences in parallel, but the text has"),
    (RNN + "train: {class_weights: balanced}", "balanced", "class weights do not apply to a language model"),
    (CNN + "train: {class_weights: [1, 2]}", "[1", "2 weights for 10 classes"),
    # metrics
    (CNN + "train: {early_stopping: {metric: train/loss}}", "train/loss", "validation on 'digits' does not report train/loss"),
    (CNN + "train: {early_stopping: {goal: min}}", "min", "goal has no effect without a metric"),
    (CNN + "checkpoint: {best: {metric: validation/f1}}", "validation", "validation on 'digits' does not report validation/f1"),
    (CNN + "checkpoint: {best: {metric: validation/bits_per_character}}", "validation", "validation on 'digits' does not report"),
    (CNN + "checkpoint: {best: {goal: min}}", "min", "goal has no effect without a metric"),
    (
        CNN + "checkpoint: {best: {metric: validation/accuracy}}\ntrain: {early_stopping: {metric: validation/loss}}",
        "validation/loss",
        "the best checkpoint is chosen by validation/accuracy, so early stopping cannot follow validation/loss",
    ),
    (
        CNN + "checkpoint: {best: {metric: validation/loss, goal: min}}\ntrain: {early_stopping: {metric: validation/loss, goal: max}}",
        "max",
        "the best checkpoint is the one with the min of validation/loss",
    ),
]


@pytest.mark.parametrize(("text", "at", "message"), MISTAKES)
def test_what_no_single_field_can_decide_is_refused_at_its_place(load: Load, text: str, at: str, message: str) -> None:
    for name in ("no", "a.txt"):
        Path(name).mkdir()
    found = [problem for problem in problems(load, f"{text}\n") if not problem.message.startswith(str(Path.cwd()))]
    (problem,) = found
    assert problem.message.startswith(message)
    assert problem.place.source[(problem.place.column or 0) - 1 :].startswith(at)
    assert problem.expected


FINE = [
    "model: {kind: cnn, network: resnet18, stem: small, dropout: 0.1}\ndata: {dataset: cifar10}",
    "model: {kind: cnn, head: average}\ndata: {dataset: mnist, augment: {crop: 27}}",
    text_of("python-docs", ", cell: linear, layers: 2, dropout: 0.1, embedding_size: 8"),
    image("cifar10, normalize: {mean: [0.5], std: [0.5]}"),
    image("cifar10, normalize: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}"),
    image(f"images, url: 'https://x/y.tar.gz', sha256: {HASH}"),
    CNN + "train: {optimizer: {name: sgd, momentum: 0.9, nesterov: true}}",
    CNN + "train: {optimizer: {momentum: 0.0, nesterov: false}}",
    CNN + "train: {schedule: {name: step, every: 3 epochs, factor: 0.5, warmup: 10 steps}}",
    CNN + "train: {schedule: {warmup: 10 steps}}",
    CNN + "train: {schedule: {name: one-cycle, peak_at: 0.5}}",
    CNN + "train: {batch_size: 8, accumulate: 4}\nresources: {processes: 2}",
    CNN + "train: {batch_size: 100000, label_smoothing: 0.1, class_weights: balanced}",
    CNN + "train: {class_weights: [1, 1, 1, 1, 1, 1, 1, 1, 1, 2.5]}",
    RNN + "train: {carry_state: true, label_smoothing: 0.1}",
    RNN + "checkpoint: {best: {metric: validation/bits_per_character, keep: 2}}",
    CNN + "train: {early_stopping: {metric: validation/loss, goal: min, patience: 1}}",
    CNN + "train: {early_stopping: {}}",
    CNN + "train: {early_stopping: {metric: validation/loss}}\ncheckpoint: {best: {metric: validation/loss}}",
    CNN + "train: {deliver: best}",
    SCRIPT + "checkpoint: {best: {metric: train/reward, goal: max}}",
]


@pytest.mark.parametrize("text", FINE)
def test_what_fits_together_is_a_job(load: Load, text: str) -> None:
    load(f"name: a\n{text}\n")


def test_the_checksums_of_mnist_are_those_of_its_four_files(load: Load) -> None:
    names = [*MNIST_SHA256][:3]
    checksums = ", ".join(f"{name}: {HASH}" for name in (*names, "extra.gz"))
    found = problems(load, image(f"mnist, sha256: {{{checksums}}}"))
    assert [problem.message for problem in found] == [
        "the checksum of t10k-labels-idx1-ubyte.gz is missing",
        "unknown file 'extra.gz'",
    ]


def test_nothing_follows_from_a_value_that_is_wrong_by_itself(load: Load) -> None:
    text = """\
name: a
model: {kind: cnnn}
data: {dataset: digits}
train:
  batch_size: none
  accumulate: 100
  schedule: {name: stop, every: 3 epochs, peak_at: 0.5}
  optimizer: {name: sgdd, nesterov: true, momentum: 0.9}
  early_stopping: {metric: loss, goal: min}
resources: {processes: 60}
"""
    with pytest.raises(JobFileError) as caught:
        load(text)
    assert [problem.message for problem in caught.value.problems] == [
        "unknown kind 'cnnn'",
        "train.batch_size cannot be 'none'",
        "unknown schedule 'stop'",
        "unknown optimizer 'sgdd'",
        "train.early_stopping.metric cannot be 'loss'",
    ]


def test_the_checks_look_at_a_section_although_another_field_of_it_is_wrong(load: Load) -> None:
    found = problems(load, CNN + "train: {schedule: {name: cosine, every: 3 epochs, factr: 2}}\n")
    assert [problem.message for problem in found] == ["every has no effect on the schedule cosine", "unknown key 'factr'"]


def test_an_image_has_one_base_and_its_files_exist(load: Load) -> None:
    text = SCRIPT + "image: {base: python, dockerfile: Dockerfile, requirements: needs.txt}\n"
    one_base, no_requirements = problems(load, text)
    assert "dockerfile and base cannot both be set" in one_base.message
    assert "no such file" in no_requirements.message
    assert (no_requirements.place.line, no_requirements.place.source) == (3, text.splitlines()[1])
    assert "no such file" in one_problem(load, SCRIPT + "image: {dockerfile: Dockerfile}\n").message


@pytest.mark.parametrize("store", ["ftp://host/x", "s4://bucket/x", "gs://", "az://account", "https://host/x"])
def test_a_store_that_no_url_leads_to_is_a_mistake_of_the_file(load: Load, store: str) -> None:
    problem = one_problem(load, f"{SCRIPT}store: {store}\n")
    assert problem.message == f"{store!r} is not a store URL"


@pytest.mark.parametrize(
    "store", ["s3://bucket", "s3://bucket/runs/", "gs://bucket/a/b", "az://account/container", "file:///tmp/x", "~/runs"]
)
def test_the_url_of_a_store_is_accepted(load: Load, store: str) -> None:
    load(f"name: a\n{SCRIPT}store: {store}\n")


@pytest.mark.parametrize(
    ("text", "metric", "goal"),
    [
        (CNN, None, None),
        (RNN, "validation/loss", None),
        (RNN + "checkpoint: {best: {metric: validation/bits_per_character}}", "validation/bits_per_character", None),
        (CNN + "train: {early_stopping: {metric: validation/loss, goal: max}}", "validation/loss", "max"),
        (CNN + "train: {early_stopping: {}}", None, None),
        (SCRIPT, None, None),
    ],
)
def test_one_metric_decides_what_is_best(load: Load, text: str, metric: str | None, goal: str | None) -> None:
    best = load(f"name: a\n{text}\ncheckpoint: {{best: {{keep: 2}}}}\n" if "checkpoint" not in text else f"name: a\n{text}\n").spec.best
    assert (best.metric, best.goal) == (metric, goal)
