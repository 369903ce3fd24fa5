from pathlib import Path
from textwrap import dedent

import pytest

from cloud_train.job.config import load_config
from cloud_train.job.loading import load_job
from cloud_train.spec.problems import JobFileError
from tests.job.conftest import Load

CNN = "name: a\nmodel: {kind: cnn}\ndata: {dataset: digits}\n"
SCRIPT = "name: a\nmodel: {kind: script, command: 'true'}\n"


def mistakes(load: Load, text: str, *overrides: str) -> dict[str, str]:
    """Place → message of every problem."""
    with pytest.raises(JobFileError) as caught:
        load(text, *overrides)
    return {str(problem.place).removeprefix("job.yaml:"): problem.message for problem in caught.value.problems}


def test_a_job_becomes_a_spec_with_what_it_amounts_to(load: Load, tmp_path: Path) -> None:
    loaded = load(CNN)
    assert loaded.spec.name == "a"
    assert loaded.file == tmp_path / "job.yaml"
    assert loaded.directory == tmp_path
    assert loaded.data
    assert (loaded.data.train_samples, loaded.data.validation_samples) == (1438, 359)
    assert sum(layer.parameters for layer in loaded.layers) == 34_826


def test_every_mistake_is_shown_at_once_like_a_compiler_does(load: Load) -> None:
    text = """\
        name: My_Job
        modle: x
        model:
          kind: cnn
          blocks: [{filters: 32, kernal: 3}, {filters: "a"}, {}]
        data: {dataset: digit}
        train:
          epochs: no
          optimiser: {name: adam}
          optimizer: {name: adma, lr: -1}
        checkpoint: {every: 1 epcoh, keep: 1.5}
        env: {A: 3, "b c": d}
        retry: {attempts: 31, on: [preempt]}
        limits: [1]
        """
    with pytest.raises(JobFileError) as caught:
        load(dedent(text))
    assert caught.value.exit_code == 3
    assert caught.value.message == dedent("""\
        17 mistakes in job.yaml

        job.yaml:1:7: name cannot be 'My_Job'
            name: My_Job
                  ^
            expected: at most 40 characters of a-z, 0-9 and '-', not starting or ending with '-'

        job.yaml:2:1: unknown key 'modle'
            modle: x
            ^
            expected: one of name, model, data, train, checkpoint, resources, provider, store, image, env, secrets, retry, limits
            did you mean 'model'?

        job.yaml:5:26: unknown key 'kernal'
              blocks: [{filters: 32, kernal: 3}, {filters: "a"}, {}]
                                     ^
            expected: one of filters, kernel, stride, padding, norm, pool, dropout
            did you mean 'kernel'?

        job.yaml:5:48: model.blocks.1.filters cannot be 'a'
              blocks: [{filters: 32, kernal: 3}, {filters: "a"}, {}]
                                                           ^
            expected: a whole number

        job.yaml:5:54: 'filters' is missing in 'model.blocks.2'
              blocks: [{filters: 32, kernal: 3}, {filters: "a"}, {}]
                                                                 ^

        job.yaml:6:17: unknown dataset 'digit'
            data: {dataset: digit}
                            ^
            expected: one of digits, mnist, cifar10, images, python-docs, text, sequences, series, files; for a program of your own, kind: script
            did you mean 'digits'?

        job.yaml:8:11: train.epochs cannot be 'no'
              epochs: no
                      ^
            expected: a whole number

        job.yaml:9:3: unknown key 'optimiser'
              optimiser: {name: adam}
              ^
            expected: one of start_from, epochs, steps, batch_size, accumulate, optimizer, schedule, clip_norm, label_smoothing, \
class_weights, ema, early_stopping, deliver, evaluate, precision, channels_last, compile, carry_state, fast_dev_run, tensorboard, seed
            did you mean 'optimizer'?

        job.yaml:10:21: unknown optimizer 'adma'
              optimizer: {name: adma, lr: -1}
                                ^
            expected: one of adam, adamw, sgd, rmsprop, adagrad
            did you mean 'adam'?

        job.yaml:10:31: train.optimizer.lr cannot be -1
              optimizer: {name: adma, lr: -1}
                                          ^
            expected: more than 0

        job.yaml:11:21: checkpoint.every cannot be '1 epcoh'
            checkpoint: {every: 1 epcoh, keep: 1.5}
                                ^
            expected: how often, such as '1 epoch', '200 steps' or '5 min'

        job.yaml:11:36: checkpoint.keep cannot be 1.5
            checkpoint: {every: 1 epcoh, keep: 1.5}
                                               ^
            expected: a whole number

        job.yaml:12:10: env.A cannot have this value
            env: {A: •, "b c": •}
                     ^
            expected: text; put quotes around it if it looks like a number

        job.yaml:12:13: invalid key 'b c'
            env: {A: •, "b c": •}
                        ^
            expected: a variable name: letters, digits and '_', not starting with a digit

        job.yaml:13:19: retry.attempts cannot be 31
            retry: {attempts: 31, on: [preempt]}
                              ^
            expected: at most 30

        job.yaml:13:28: retry.on.0 cannot be 'preempt'
            retry: {attempts: 31, on: [preempt]}
                                       ^
            expected: 'failed', 'out-of-memory', 'preempted', 'infrastructure' or 'timed-out'
            did you mean 'preempted'?

        job.yaml:14:9: limits cannot be a list
            limits: [1]
                    ^
            expected: keys and values""")  # noqa: E501 -- as it is shown


def test_mistakes_of_every_kind_are_reported_together(load: Load, tmp_path: Path) -> None:
    """Of one field, of several fields, and of what a value points at."""
    text = """\
        name: A
        model: {kind: rnn, cell: linear, bidirectional: true}
        data: {dataset: text, path: none.txt}
        train: {epochs: 1, steps: 1, optimizer: {name: adam, momentum: 0.9}, batch: 3}
        env: {API_TOKEN: hunter2, CLOUD_TRAIN_HOME: x}
        store: ~nobody-of-this-name/runs
        """
    found = mistakes(load, dedent(text))
    assert list(found.values()) == [
        "name cannot be 'A'",
        "the linear cell reads in only one direction",
        f"no such file or folder: {tmp_path}/none.txt",
        "epochs and steps cannot both be set",
        "momentum is for sgd and rmsprop, not adam",
        "unknown key 'batch'",
        "API_TOKEN looks like a secret; its value must not be in a job file",
        "CLOUD_TRAIN_HOME is reserved for cloud-train",
        "unknown home folder '~nobody-of-this-name'",
    ]


def test_the_data_is_looked_at_though_the_model_is_wrong(load: Load) -> None:
    found = mistakes(load, "name: a\nmodel: {kind: rnn, cell: grru}\ndata: {dataset: text, path: none.txt}\n")
    assert list(found) == ["2:26", "3:29"]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("model: {kind: cnn}", "1:15", "model kind 'cnn' needs data, but the job has none"),
        ("model: {kind: cnn}\ndata: {dataset: python-docs}", "2:17", "model kind 'cnn' cannot learn from 'python-docs'"),
        ("model: {kind: rnn}\ndata: {dataset: digits}", "2:17", "model kind 'rnn' cannot learn from 'digits'"),
        ("model: {kind: rnn}\ndata: {dataset: files, path: .}", "2:17", "model kind 'rnn' cannot learn from 'files'"),
        (
            "model: {kind: script, command: x}\ndata: {dataset: digits}",
            "2:17",
            "a script reads its own data and cannot use the data set 'digits'",
        ),
        ("model: {kind: script, command: x, directory: no}", "1:46", "no such folder: {folder}/no"),
        ("model: {kind: script, command: x, directory: job.yaml}", "1:46", "no such folder: {folder}/job.yaml"),
        ("model: {kind: script, command: x}\ndata: {dataset: files, path: no}", "2:30", "no such file or folder: {folder}/no"),
        ("model: {kind: script, command: x}\nlimits: {duration: 0 s}", "2:20", "a duration of zero would stop the run at once"),
        ("model: {kind: script, command: x}\nenv: {A: b}\nsecrets: [A]", "3:11", "A is also listed under env"),
        ("model: {kind: cnn}\ndata: {dataset: digits, validation: 1e-9}", "2:37", "a fraction of 1e-09 of 1,797 images leaves none"),
        (
            "model:\n  kind: cnn\n  blocks: [{filters: 8}, {filters: 8}, {filters: 8}]\ndata: {dataset: digits, size: 16}",
            "3:40",
            "the image is too small for this block: 0×0 pixels are left after the 3×3 convolution, and pooling needs 2",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(load: Load, tmp_path: Path, text: str, place: str, message: str) -> None:
    line, column = place.split(":")
    ((found, said),) = mistakes(load, f"name: a\n{text}\n").items()
    assert found == f"{int(line) + 1}:{column}"
    assert said.startswith(message.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("text", "place", "message", "suggestion"),
    [
        ("name: a\n", "1:1", "'model' is missing", ""),
        ("name: a\nmodel: {command: x}\n", "2:8", "'kind' is missing in 'model'", ""),
        ("name: a\nmodel: {kind: scrpt}\n", "2:15", "unknown kind 'scrpt'", "script"),
        ("name: a\nmodel: {kind: script, command: x, dir: y}\n", "2:35", "unknown key 'dir'", ""),
        ("name: a\nmodel: {kind: script, command: []}\n", "2:32", "model.command cannot be an empty list", ""),
        ("name: a\nmodel: {kind: script, command: [1]}\n", "2:33", "model.command.0 cannot be 1", ""),
        ("name: a\nmodel: {kind: script, command: 3}\n", "2:32", "model.command cannot be 3", ""),
        ("name: a\nmodel:\n", "2:7", "model cannot be empty", ""),
        ("name: a/b\nmodel: {kind: script, command: x}\n", "1:7", "name cannot be 'a/b'", ""),
        ("name: 2024\nmodel: {kind: script, command: x}\n", "1:7", "name cannot be 2024", ""),
        (CNN + "train: {schedule: cosin}\n", "4:19", "unknown schedule 'cosin'", "cosine"),
        (CNN + "train: {schedule: 3}\n", "4:19", "train.schedule cannot be 3", ""),
        (CNN + "train: {schedule: [step]}\n", "4:19", "train.schedule cannot be a list", "step"),
        (CNN + "train: {schedule: {nam: step}}\n", "4:20", "unknown key 'nam'", "name"),
        (CNN + "train: {schedule: {name: stop}}\n", "4:26", "unknown schedule 'stop'", "step"),
        (CNN + "train: {schedule: {name: step, every: 3}}\n", "4:39", "train.schedule.every cannot be 3", ""),
        (CNN + "train: {class_weights: balance}\n", "4:24", "train.class_weights cannot be 'balance'", "balanced"),
        (CNN + "train: {class_weights: [1, 0]}\n", "4:28", "train.class_weights.1 cannot be 0", ""),
        (CNN + "train: {optimizer: {no_decay: [biases]}}\n", "4:32", "train.optimizer.no_decay.0 cannot be 'biases'", "bias"),
        (CNN + "train: {early_stopping: {metric: loss}}\n", "4:34", "train.early_stopping.metric cannot be 'loss'", ""),
        (CNN.replace("digits", "cifar10, sha256: abc"), "3:34", "data.sha256 cannot be 'abc'", ""),
        (CNN.replace("digits", "cifar10, url: ftp"), "3:31", "data.url cannot be 'ftp'", ""),
        (CNN.replace("digits", "mnist, sha256: {a: b}"), "3:36", "data.sha256.a cannot be 'b'", ""),
        (CNN.replace("digits", "images, path: ., augment: {flop: true}"), "3:44", "unknown key 'flop'", "flip"),
    ],
)
def test_a_mistake_points_at_its_place_and_at_the_nearest_name(load: Load, text: str, place: str, message: str, suggestion: str) -> None:
    with pytest.raises(JobFileError) as caught:
        load(text)
    (problem,) = caught.value.problems
    assert (str(problem.place), problem.message, problem.suggestion) == (f"job.yaml:{place}", message, suggestion)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {schedule: cosin}", "one of constant, cosine, step, one-cycle, or keys and values"),
        ("train: {class_weights: balance}", "'balanced', or a list, such as [a, b]"),
        ("train: {early_stopping: {metric: loss}}", "a metric with its split, such as 'validation/loss'"),
        ("data: {dataset: cifar10, url: ftp}", "a URL that begins with 'https://' or 'http://', without spaces"),
        ("data: {dataset: cifar10, sha256: ABC}", "64 characters of 0-9 and a-f, as printed by sha256sum"),
    ],
)
def test_what_was_expected_is_said_in_words(load: Load, text: str, expected: str) -> None:
    with pytest.raises(JobFileError) as caught:
        load(f"name: a\nmodel: {{kind: cnn}}\n{text if 'data' in text else text + chr(10) + 'data: {dataset: digits}'}\n")
    assert [problem.expected for problem in caught.value.problems] == [expected]


def test_no_word_of_the_validator_reaches_a_person(load: Load) -> None:
    text = "name: [a]\nmodel: 3\ndata: []\ntrain: x\nenv: []\nsecrets: x\nprovider: {}\nstore: 1\nretry: {on: x}\nlimits: {grace: [1]}\n"
    with pytest.raises(JobFileError) as caught:
        load(text)
    assert len(caught.value.problems) == 10
    assert not [word for word in ("Input", "input", "valid", "dictionary", "tuple", "instance") if word in caught.value.message]


def test_a_name_or_value_of_any_length_makes_a_short_message(load: Load) -> None:
    long = "x" * 30_000
    text = f"name: {long}\n{long}: 1\nmodel: {{kind: {long}}}\ntrain: {{epochs: {long}, {long}: 2, {long}: 3}}\n"
    for wrong in (text, text.replace(f", {long}: 3", ""), f"a: *{long}\n", f"a: !{long} b\n"):
        with pytest.raises(JobFileError) as caught:
            load(wrong, f"train.steps={long}" if "name" in wrong else "train.steps=1")
        assert len(caught.value.message) < 3_000


def test_at_most_fifty_mistakes_are_shown_and_the_rest_counted(load: Load) -> None:
    with pytest.raises(JobFileError) as caught:
        load(SCRIPT + "".join(f"key{number}: 1\n" for number in range(60)))
    assert len(caught.value.problems) == 60
    assert caught.value.message.count("unknown key") == 50
    assert caught.value.message.endswith("and 10 more")


def test_without_epochs_and_steps_it_is_five_epochs_but_not_for_a_script(load: Load) -> None:
    assert load(CNN).spec.train.epochs == 5
    assert load(CNN).origins["train.epochs"] == "default"
    assert load(CNN + "train: {steps: 3}\n").spec.train.epochs is None
    assert load(SCRIPT).spec.train.epochs is None


def test_gradients_are_clipped_where_a_recurrent_network_learns_unless_the_job_says_otherwise(load: Load) -> None:
    rnn = "name: a\nmodel: {kind: rnn}\ndata: {dataset: python-docs}\n"
    assert load(rnn).spec.train.clip_norm == 1.0
    assert load(rnn).origins["train.clip_norm"] == "default"
    assert load(rnn + "train: {clip_norm: 0}\n").spec.train.clip_norm == 0
    assert load(CNN).spec.train.clip_norm == 0
    assert load(SCRIPT).spec.train.clip_norm is None


def test_a_fast_dev_run_leaves_the_job_as_it_is(load: Load) -> None:
    train = load(CNN + "train: {fast_dev_run: true}\n").spec.train
    assert (train.fast_dev_run, train.epochs, train.batch_size) == (True, 5, 64)


ABSENT = [
    "model: {kind: cnn}\ndata: {dataset: images, path: none}",
    "model: {kind: cnn}\ndata: {dataset: mnist, path: none}",
    "model: {kind: rnn}\ndata: {dataset: text, path: none}",
    "model: {kind: rnn}\ndata: {dataset: sequences, path: none}",
    "model: {kind: script, command: x}\ndata: {dataset: files, path: none}",
]


@pytest.mark.parametrize("text", ABSENT)
def test_data_that_is_not_here_is_a_mistake_unless_that_is_fine(load: Load, tmp_path: Path, text: str) -> None:
    ((place, said),) = mistakes(load, f"name: a\n{text}\n").items()
    assert (place, said) == (f"3:{text.splitlines()[1].index('none') + 1}", f"no such file or folder: {tmp_path}/none")
    loaded = load(f"name: a\n{text}\n", absent_data_is_fine=True)
    assert loaded.absent
    assert (str(loaded.absent.place), loaded.absent.message) == (f"job.yaml:{place}", said)


def test_what_is_known_without_the_data_is_there(load: Load) -> None:
    images = load("name: a\nmodel: {kind: cnn}\ndata: {dataset: images, path: none, classes: 7}\n", absent_data_is_fine=True)
    assert images.layers[-1].output_shape == (7,)
    assert images.data
    assert images.data.train_samples is None
    text = load("name: a\nmodel: {kind: rnn}\ndata: {dataset: text, path: none}\n", absent_data_is_fine=True)
    assert (text.data, text.layers) == (None, ())


def test_other_mistakes_stay_mistakes_where_the_data_may_be_absent(load: Load) -> None:
    with pytest.raises(JobFileError) as caught:
        load("name: A\nmodel: {kind: rnn}\ndata: {dataset: text, path: none}\ntrain: {evaluate: 3 min}\n", absent_data_is_fine=True)
    assert [str(problem.place) for problem in caught.value.problems] == ["job.yaml:1:7", "job.yaml:4:19"]


def test_data_that_will_be_downloaded_is_no_mistake(load: Load) -> None:
    loaded = load(f"name: a\nmodel: {{kind: rnn}}\ndata: {{dataset: text, url: 'https://x/a.txt', sha256: {'a' * 64}}}\n")
    assert (loaded.absent, loaded.data) == (None, None)


def test_every_value_says_where_it_came_from(load: Load, tmp_path: Path) -> None:
    config = tmp_path / "configs" / "x.yaml"
    config.parent.mkdir()
    config.write_text("provider: other\nstore: runs\n")
    text = CNN + "store: /job\nprovider: mine\ncheckpoint:\n  keep: 7\n"
    origins = load(
        text, "train.batch_size=3", "model.blocks.1.filters=9", config=load_config(Path("configs/x.yaml")), provider="local"
    ).origins
    wanted = {
        "name": "job.yaml:1",
        "data.dataset": "job.yaml:3",
        "checkpoint.keep": "job.yaml:7",
        "checkpoint.every": "default",
        "train.batch_size": "--set",
        "train.seed": "default",
        "model.blocks.1.filters": "--set",
        "model.blocks.0.filters": "default",
        "provider": "--provider",
        "store": "configs/x.yaml:2",
    }
    assert {path: origins[path] for path in wanted} == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"flag", "set", "config", "file"}, "flag"),
        ({"set", "config", "file"}, "set"),
        ({"config", "file"}, "config"),
        ({"file"}, "file"),
        (set(), "local"),
    ],
)
def test_the_flag_outranks_set_outranks_the_config_outranks_the_file(load: Load, tmp_path: Path, given: set[str], wanted: str) -> None:
    (tmp_path / "c.yaml").write_text("provider: config\nstore: /config\n")
    loaded = load(
        CNN + ("provider: file\nstore: /file\n" if "file" in given else ""),
        *(["provider=set", "store=/set"] if "set" in given else []),
        config=load_config(Path("c.yaml")) if "config" in given else None,
        provider="flag" if "flag" in given else None,
        store="/flag" if "flag" in given else None,
    )
    assert (loaded.spec.provider, loaded.spec.store) == (wanted, f"/{wanted}" if given else "~/.cloud-train/runs")


def test_the_command_line_changes_one_setting_of_the_provider_and_keeps_the_config_files_others(load: Load, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("provider: aws\nstore: s3://b/r\naws: {region: eu-west-1, machine: ml.m5.large, tags: {a: b}}\n")
    loaded = load(CNN, "aws.machine=ml.g5.xlarge", "aws.tags.count=42", "aws.volume=1GB", config=load_config(Path("c.yaml")))
    settings = {name: loaded.settings[name] for name in ("region", "machine", "tags", "volume")}
    assert settings == {"region": "eu-west-1", "machine": "ml.g5.xlarge", "tags": {"a": "b", "count": "42"}, "volume": "1GB"}


def test_the_command_line_needs_no_config_file_to_change_a_setting(load: Load, tmp_path: Path) -> None:
    assert load(CNN, "local.python=bin/python").settings == {"python": str(tmp_path / "bin/python")}
    assert load(CNN, "docker.network=mine", provider="docker").settings == {"network": "mine", "console_output": True}
    assert load(CNN).settings == {}


@pytest.mark.parametrize(
    ("override", "place", "said", "suggested"),
    [
        ("aws.machin=x", "--set aws.machin=x", "unknown key 'machin'", "machine"),
        ("aws.region=3", "--set aws.region=3", "aws.region cannot be 3", ""),
        ("docker.hots=x", "--set docker.hots=x", "has no effect: the job runs on 'aws'", ""),
        ("aws=x", "--set aws=x", "aws cannot be 'x'", ""),
    ],
)
def test_a_mistake_in_a_setting_of_the_command_line_is_located_there(
    load: Load, override: str, place: str, said: str, suggested: str
) -> None:
    with pytest.raises(JobFileError) as caught:
        load(CNN, override, "train.epochs=0", provider="aws", store="s3://b/r")
    first, second = caught.value.problems
    assert {str(first.place), str(second.place)} == {"--set train.epochs=0", place}
    of_settings = first if str(first.place) == place else second
    assert (of_settings.message, of_settings.suggestion) == (said, suggested)


def test_a_wrong_provider_or_store_of_the_command_line_is_located_there(load: Load) -> None:
    with pytest.raises(JobFileError) as caught:
        load(CNN, provider="A B", store="")
    assert [str(problem.place) for problem in caught.value.problems] == ["--provider", "--store"]


def test_a_job_file_in_another_folder_keeps_its_relative_paths(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "my.txt").write_text("some words " * 100)
    (folder / "job.yaml").write_text("name: a\nmodel: {kind: rnn}\ndata: {dataset: text, path: my.txt, sequence_length: 8}\n")
    loaded = load_job(Path("deep/er/job.yaml"))
    assert loaded.data
    assert loaded.data.classes == len(set("some words "))
    assert loaded.directory == folder
