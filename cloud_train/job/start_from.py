"""``train.start_from``: what it names, and the mistakes in it that can be found without a ledger or a store."""

import os
from collections.abc import Iterator
from pathlib import Path as FilePath
from urllib.parse import urlsplit

from cloud_train.beneath import IrregularError, open_plain
from cloud_train.data.base import IN_STORE, SCHEME
from cloud_train.job.models import JobSpec
from cloud_train.job.training import WebWeights
from cloud_train.networks.base import ScriptModel
from cloud_train.spec.paths import has_home, is_there, mistake_in
from cloud_train.spec.problems import Finding, Path
from cloud_train.spec.secret_names import granting_parameter, without_credentials
from cloud_train.spec.types import PATTERNS, SHA256_PATTERN

WEIGHTS_FILE = "model.safetensors"
"""The weights of a model of the built-in trainers."""
MODEL_FOLDER = "model"
"""The folder of the final model in a run directory."""
WANTED = "a run, a fetched model's folder, a file of weights, or url and sha256"
"""What ``start_from`` may name, for messages."""
_FIELD: Path = ("train", "start_from")
_CHECKSUM = "#sha256="
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_MAGIC_BYTES = 9
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def web_weights(start_from: str | WebWeights | None) -> tuple[str, str] | None:
    """URL and SHA-256 of a file on a web server, the latter empty if it is missing; None if the job starts from something else."""
    if isinstance(start_from, WebWeights):
        return start_from.url, start_from.sha256
    if start_from is None or not start_from.startswith(("http://", "https://")):
        return None
    url, _, sha256 = start_from.partition(_CHECKSUM)
    return url, sha256.lower()


def store_url(start_from: str | WebWeights | None) -> str | None:
    """``start_from`` where it is the URL of something in a store."""
    return start_from if isinstance(start_from, str) and SCHEME.match(start_from) and web_weights(start_from) is None else None


def local_place(start_from: str | WebWeights | None, directory: FilePath) -> FilePath | None:
    """The file or folder on this machine that ``start_from`` names; ``directory`` is where a relative path starts.

    None for a run, and for what is elsewhere. What exists is meant by its path; anything else without a slash and an ending of weights
    names a run.
    """
    if not isinstance(start_from, str) or SCHEME.match(start_from):
        return None
    if not has_home(start_from):
        return None
    path = directory / FilePath(start_from).expanduser()
    looks_like_path = "/" in start_from or start_from.startswith(("~", ".")) or start_from.endswith(_ENDINGS)
    return path if looks_like_path or is_there(path) else None


def weights_at(place: FilePath) -> FilePath:
    """The file of weights at ``place``: itself, or that of a model's folder or of a run directory. Raises ValueError if there is none."""
    if not is_there(place):
        raise ValueError(f"no such file or folder: {place}")
    if not place.is_dir():
        return place.resolve()
    found = next((path for path in (place / WEIGHTS_FILE, place / MODEL_FOLDER / WEIGHTS_FILE) if path.is_file()), None)
    if found is None:
        raise ValueError(f"{place} has no {WEIGHTS_FILE}")
    return found.resolve()


def check_start(spec: JobSpec, directory: FilePath) -> Iterator[Finding]:
    """Mistakes in ``train.start_from``, except for a run that does not exist: only the ledger knows."""
    start = spec.train.start_from
    if start is None:
        return
    if isinstance(spec.model, ScriptModel):
        yield _FIELD, "start_from has no effect: a script loads its own weights", "no train.start_from"
    elif (web := web_weights(start)) is not None:
        yield from _check_web(*web, (*_FIELD, "url") if isinstance(start, WebWeights) else _FIELD)
    elif isinstance(start, str) and (mistake := mistake_in(start)):
        yield _FIELD, *mistake
    elif (url := store_url(start)) is not None:
        yield from _check_store_url(url)
    elif (place := local_place(start, directory)) is not None:
        try:
            check_format(weights_at(place))
        except ValueError as error:
            yield _FIELD, str(error), WANTED


def check_format(path: FilePath) -> None:
    """Raise ValueError unless ``path`` is a readable file that begins as safetensors or as a file that torch saved."""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            head = file.read(_MAGIC_BYTES)
    except IrregularError as error:
        raise ValueError(f"{path} is {error.what}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {os.strerror(error.errno or 0).lower()}") from error
    if head[8:] != b"{" and not head.startswith((_ZIP, _PICKLE)):
        raise ValueError(f"{path} is neither a safetensors file nor a file that torch saved")


def _check_web(url: str, sha256: str, path: Path) -> Iterator[Finding]:
    if not sha256:
        yield path, "a download needs a checksum", f"url and sha256, or {_CHECKSUM} after the URL: {PATTERNS[SHA256_PATTERN]}"
    elif len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        yield path, "the checksum is not a SHA-256", PATTERNS[SHA256_PATTERN]
    if "@" in urlsplit(url).netloc:
        yield path, "a user name or password must not be in a job file", "a URL without them, or a file"
    elif name := granting_parameter(url):
        wanted = "a URL that needs none, a file, or a store URL (s3://…, gs://…, az://…)"
        yield path, f"the URL contains a signature or a key ({name!r}), which must not be in a job file", wanted


def _check_store_url(url: str) -> Iterator[Finding]:
    if not IN_STORE.fullmatch(url.rstrip("/")) and not url.startswith("file://"):
        yield (
            _FIELD,
            f"{without_credentials(url)!r} is not a store URL",
            "s3://bucket/…, gs://bucket/…, az://account/container/…, or a path",
        )
    elif granting_parameter(url):
        yield _FIELD, "a store URL must not contain a signature or a key", "the URL without them"
