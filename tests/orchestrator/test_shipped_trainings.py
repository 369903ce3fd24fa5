"""The shipped jobs, each trained from submission to model on generated data in the right format, and shortened."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud_train.orchestrator.home import Home
from cloud_train.orchestrator.planning import make_plan
from cloud_train.orchestrator.reading import read_logs, read_metrics
from cloud_train.orchestrator.reconcile import update_run
from cloud_train.orchestrator.submitting import submit
from cloud_train.run.manifest import verify
from cloud_train.run.states import State
from tests.support import wait_until

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

JOBS = Path(__file__).parents[2] / "jobs"


@contextmanager
def mnist(_folder: Path) -> Iterator[list[str]]:
    """The four files on a server, from which the job fetches them."""
    import torch

    from tests.training.data.test_mnist import files, idx
    from tests.web_server import serving, sha256

    made = files(train=300, test=40)
    for part, count in (("train", 300), ("t10k", 40)):  # of MNIST's own size
        made[f"{part}-images-idx3-ubyte"] = idx(torch.randint(256, (count, 28, 28), generator=torch.Generator().manual_seed(0)))
    packed = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in made.items()}
    with serving(**packed) as server:
        sums = json.dumps({name: sha256(content) for name, content in packed.items()})
        yield [f"data.url={server.url}/", f"data.sha256={sums}", "train.epochs=1"]
        assert len({request["path"] for request in server.requests}) == 4


@contextmanager
def cifar10(folder: Path) -> Iterator[list[str]]:
    """The archive in its published format."""
    from tests.training.data.test_cifar10 import files, pack

    archive = pack(folder / "cifar-10-binary.tar.gz", files())
    yield [f"data.path={archive}", "train.epochs=1", "train.batch_size=10"]


@contextmanager
def imagenet(folder: Path) -> Iterator[list[str]]:
    """Photographs in the layout of ImageNet, but smaller, because a step of ResNet-50 is slow without a GPU."""
    from tests.training.images.pictures import noise

    for part in ("train", "val"):
        for number in range(4):
            place = folder / "imagenet" / part / ("n01440764", "n01443537")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            noise(50, 40, number).save(place / f"{part}_{number}.JPEG")
    (folder / "imagenet" / "train" / "n01440764" / "torn.JPEG").write_bytes(b"\xff\xd8\xff\xe0 torn")
    yield [
        f"data.path={folder / 'imagenet'}",
        "data.classes=2",
        "data.size=32",
        "train.epochs=1",
        "train.batch_size=5",
        "resources.processes=1",
        "resources.accelerator=null",
    ]


@contextmanager
def reviews(folder: Path) -> Iterator[list[str]]:
    """Lines with a label and a text."""
    words = {"good": "A fine film, with a large heart", "bad": "Two poor hours that I want back"}
    lines = [f"{label}\t{text}{' really' * (number % 5)}.\n" for number in range(40) for label, text in words.items()]
    (folder / "reviews.tsv").write_text("".join(lines))
    yield [f"data.path={folder / 'reviews.tsv'}", "train.epochs=2"]


@contextmanager
def plays(folder: Path) -> Iterator[list[str]]:
    """A text on a server, from which the job fetches it."""
    from tests.web_server import serving, sha256

    text = b"ROMEO: But soft, what light through yonder window breaks?\n" * 400
    with serving(**{"input.txt": text}) as server:
        yield [f"data.url={server.url}/input.txt", f"data.sha256={sha256(text)}", "data.sequence_length=32", "train.epochs=1"]
        assert {request["path"] for request in server.requests} == {"/input.txt"}


@contextmanager
def airline(_folder: Path) -> Iterator[list[str]]:
    """The series that is shipped."""
    yield ["train.epochs=2"]


DATA: dict[str, Callable[[Path], object]] = {
    "mnist-cnn": mnist,
    "cifar10-cnn": cifar10,
    "imagenet-resnet50": imagenet,
    "sentiment-rnn": reviews,
    "text-rnn": plays,
    "airline-rnn": airline,
}
NEEDS_NOTHING = {"digits-cnn", "python-docs-rnn", "script", "keras-cnn"}


def test_every_shipped_job_is_trained_here_or_needs_no_data_of_its_own() -> None:
    assert {path.stem for path in JOBS.glob("*.yaml")} == set(DATA) | NEEDS_NOTHING


@pytest.mark.parametrize("name", DATA)
def test_a_shipped_job_is_trained_on_data_of_its_format(home: Home, tmp_path: Path, name: str) -> None:
    few = ["resources.cpus=1", f"store={tmp_path / 'runs'}"]
    with DATA[name](tmp_path) as overrides:  # type: ignore[attr-defined]  # each is a context manager
        run = submit(home, make_plan(home, JOBS / f"{name}.yaml", [*overrides, *few]))
        wait_until(lambda: update_run(home, run.run_id).state.is_end, f"{name} has ended", 120)
    end = update_run(home, run.run_id)
    log = b"".join(read_logs(home, run.run_id)).decode()
    assert end.state is State.SUCCEEDED, f"{end.message}\n{log}"
    assert "model.safetensors" in verify(Path(run.run_directory) / "model").files
    assert {point.key for point in read_metrics(home, run.run_id)} >= {
        *("train/loss", "validation/loss", "validation/mase" if name == "airline-rnn" else "validation/accuracy")
    }
    assert list((Path(run.run_directory) / "attempts" / "1" / "metrics").glob("events.out.tfevents.*"))
    assert ("torn.JPEG" in log) == (name == "imagenet-resnet50")
