"""Files to a store and back: one large, many small, and an unchanged tree, compared with other programs; and the verb `sync`.

S3: ``aws s3``, s5cmd and rclone, with an in-memory server (benchmarks/_s3_server.py). cloud-train computes the SHA-256 of every byte in
both directions and checks each object afterwards; the others do neither. They are found on the PATH, or named in ``BENCHMARK_AWS``,
``BENCHMARK_S5CMD`` and ``BENCHMARK_RCLONE``; missing ones are left out.

Google Cloud Storage and Azure: the transfer managers of the SDKs, with the emulators of the tests (tests/stores.py), if
installed. The emulators are slow: obstore alone, which verifies nothing, shows their limit.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks._measure import ROOT, installed, report, verdict
from benchmarks._transfers import OURS, Bench, Client, Place, Samples, fill, tell
from tests.stores import missing, running

LARGE_BYTES = 512 * 10**6
MANY = 2000
SMALL_BYTES = 16 * 1024
UNCHANGED = 10_000

EMULATED_LARGE_BYTES = 128 * 10**6
EMULATED_MANY = 500

_OURS, _UNSYNCED, _LIMIT = "cloud-train", "cloud-train, not synced to the disk", "obstore alone"


def main(repeats: int = 5) -> None:
    """Measure and print; names on the command line (``s3``, ``gs``, ``az``) select clouds."""
    wanted = sys.argv[1:] or ["s3", "gs", "az"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "s3" in wanted:
            _to_s3(folder / "s3", repeats)
        for scheme, cloud in (("gs", "Google"), ("az", "Azure")):
            if scheme in wanted and (reason := missing(scheme)) is None:
                _to_emulator(folder / scheme, scheme, cloud, repeats)
            elif scheme in wanted:
                report(f"{cloud}'s transfer manager", f"Left out: {reason}.")


def _to_s3(folder: Path, repeats: int) -> None:
    folder.mkdir()
    with _server() as endpoint:
        place = Place("s3://bench", _s3_environment(folder, endpoint), f"{endpoint}/-/count")
        bench = Bench(folder, place, [*_ours(folder), *_of_s3()])
        large, many = fill(folder / "large", 1, LARGE_BYTES), fill(folder / "many", MANY, SMALL_BYTES)
        how, ours = f"{repeats} times alternately, over loopback:", (_OURS, _UNSYNCED)
        tasks: list[tuple[str, int, Callable[[Path, int], Samples], Path]] = [
            ("512 MB up", 1, bench.uploads, large),
            ("512 MB down", 1, bench.downloads, large),
            ("2,000 × 16 KB up", MANY, bench.uploads, many),
            ("2,000 × 16 KB down", MANY, bench.downloads, many),
            ("2,000 × 16 KB, nothing changed", MANY, bench.unchanged, many),
        ]
        for what, files, measure, source in tasks:
            tell(what, how, measure(source, repeats), files=files, bound=1.25, ours=ours)
        _comparison(bench, folder, repeats)
        _sync(bench, folder, place, repeats)


def _comparison(bench: Bench, folder: Path, repeats: int) -> None:
    """Seconds of listing 10,000 objects, and of listing and comparing them with a folder."""
    state, url = str(folder / "state"), "s3://bench/unchanged/"
    bench.run([*OURS, "up", url, str(fill(folder / "unchanged", UNCHANGED, 16)), state])
    compare = [*OURS, "down", url, str(folder / "copied"), state]
    for _ in range(2):
        bench.run(compare)
    pairs = [(bench.run([*OURS, "list", url, "-", state]), bench.run(compare)) for _ in range(repeats)]
    listing, comparing = statistics.median(pair[0].seconds for pair in pairs), statistics.median(pair[1].seconds for pair in pairs)
    report(
        "10,000 objects compared",
        f"Listing them takes {listing:.2f} s, listing and comparing {comparing:.2f} s (medians of {repeats}).",
        verdict("comparing beyond listing", comparing - listing, 2, " s"),
    )


def _sync(bench: Bench, folder: Path, place: Place, repeats: int) -> None:
    """Seconds and requests of the verb `sync`, for a run of 2,000 files: the first time, and with nothing changed since."""
    environment = {**place.environment, "CLOUD_TRAIN_HOME": str(folder / "home")}
    verbs = Bench(folder, Place(place.url, environment, place.requests), [])
    job = folder / "job.yaml"
    job.write_text("name: bench\nmodel:\n  kind: script\n  command: echo done\nstore: s3://bench/runs\n")
    command = [sys.executable, "-m", "cloud_train"]
    verbs.run([*command, "submit", str(job), "--follow"])
    listed = subprocess.run([*command, "list", "--json"], env={**os.environ, **environment}, capture_output=True, check=True).stdout
    run_id = json.loads(listed)["runs"][0]["run_id"]
    bench.run([*OURS, "up", f"s3://bench/runs/{run_id}/files/", str(folder / "many"), str(folder / "state")])
    sync = [*command, "sync", run_id, "--to", str(folder / "copy")]
    first, second = verbs.run(sync), verbs.run(sync)
    unchanged = [verbs.run(sync) for _ in range(repeats)]
    seconds, requests = statistics.median(sample.seconds for sample in unchanged), max(sample.requests for sample in unchanged)
    report(
        "cloud-train sync, a run of 2,000 × 16 KB",
        f"The first takes {first.seconds:.2f} s and {first.requests:,} requests, the second, which hashes the local files,"
        f" {second.seconds:.2f} s and {second.requests}, a further one {seconds:.2f} s and {requests} (median of {repeats}).",
        verdict("requests of a sync when nothing changed, beyond a listing of 1,000 keys a page", requests - 3, 0),
    )


def _to_emulator(folder: Path, scheme: str, cloud: str, repeats: int) -> None:
    folder.mkdir()
    large, many = fill(folder / "large", 1, EMULATED_LARGE_BYTES), fill(folder / "many", EMULATED_MANY, SMALL_BYTES)
    how = f"{repeats} times alternately, over loopback, to the emulator:"
    with running(scheme) as server:
        place = Place(server.new_url(), server.environment)
        for amount, files, source, size in (
            ("one", 1, large, f"{EMULATED_LARGE_BYTES // 10**6} MB"),
            ("many", EMULATED_MANY, many, f"{EMULATED_MANY:,} × 16 KB"),
        ):
            ours = _process(_OURS, OURS, str(folder / "state"), "fast")  # as `sync` does it
            bench = Bench(folder, place, [ours, *_of_sdk(scheme, amount), _limit()])
            for direction, measure in (("up", bench.uploads), ("down", bench.downloads)):
                what = f"{cloud}: {size} {direction}"
                tell(what, how, measure(source, repeats), files=files, bound=1, ours=(_OURS,), limits=(_LIMIT,))


def _ours(folder: Path) -> Iterator[Client]:
    state = str(folder / "state")
    yield _process(_OURS, OURS, state)
    yield _process(_UNSYNCED, OURS, state, "fast")


def _of_s3() -> Iterator[Client]:
    if aws := os.environ.get("BENCHMARK_AWS") or installed("aws"):
        yield Client(
            "aws s3 sync",
            lambda source, url: [aws, "s3", "sync", "--only-show-errors", str(source), url],
            lambda url, to: [aws, "s3", "sync", "--only-show-errors", url, str(to)],
        )
    if s5cmd := os.environ.get("BENCHMARK_S5CMD") or installed("s5cmd"):
        yield Client(
            "s5cmd sync", lambda source, url: [s5cmd, "sync", f"{source}/", url], lambda url, to: [s5cmd, "sync", f"{url}*", f"{to}/"]
        )
    if rclone := os.environ.get("BENCHMARK_RCLONE") or installed("rclone"):
        yield Client(
            "rclone copy",
            lambda source, url: [rclone, "copy", str(source), url.replace("s3://", "bench:")],
            lambda url, to: [rclone, "copy", url.replace("s3://", "bench:"), str(to)],
        )


def _of_sdk(scheme: str, amount: str) -> Iterator[Client]:
    command = [sys.executable, "-m", "benchmarks._sdk_client"]
    if scheme == "gs":
        yield _process("the SDK, with processes", command, amount, "process")
        yield _process("the SDK, with threads", command, amount, "thread")
    else:
        yield _process("the SDK", command, amount)


def _limit() -> Client:
    return _process(_LIMIT, [sys.executable, "-m", "benchmarks._obstore_client"])


def _process(name: str, command: Sequence[str], *arguments: str) -> Client:
    return Client(
        name,
        lambda source, url: [*command, "up", url, str(source), *arguments],
        lambda url, to: [*command, "down", url, str(to), *arguments],
    )


def _s3_environment(folder: Path, endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "S3_ENDPOINT_URL": endpoint,  # s5cmd's own name for it
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "RCLONE_CONFIG": str(folder / "rclone.conf"),
        "RCLONE_CONFIG_BENCH_TYPE": "s3",
        "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
        "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
        "RCLONE_CONFIG_BENCH_ENDPOINT": endpoint,
    }


@contextmanager
def _server() -> Iterator[str]:
    """The server's address, with the bucket ``bench``; it ends with the block."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks._s3_server"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # for the type checker: requested two lines above
            endpoint = process.stdout.readline().strip()
            with urlopen(Request(f"{endpoint}/bench", method="PUT")):
                pass
            yield endpoint
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
