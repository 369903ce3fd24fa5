"""What the tests of every cloud share: a registry with a login, the base images in it, and the store of each cloud.

The fixtures of tests/clouds/conftest.py make the session's part once; a registry is each test's or each module's own::

    def test_something(shared_clouds: Path, small_base: str, tmp_path: Path) -> None:
        with registry(shared_clouds, tmp_path / "registry", {"AWS": "password"}) as running:
            ...  # the config's `repository: {running.repository}`, the job's `image: {base: {small_base}}`

All registries of a session keep their things in one folder and have one repository, ``REPOSITORY``, for the images of all jobs: so the base
is pushed once per session, and a submission finds it there. A push takes long because the engine compresses what it pushes: who runs such
tests often names a folder in CLOUD_TRAIN_TEST_REGISTRY, which keeps the images for later sessions. A pull takes next to nothing: the engine
knows the layers that it has pushed.
"""

import ctypes
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cloud_train.image.context import survey
from cloud_train.image.engine_images import EngineImages
from cloud_train.image.prepared import prepare
from cloud_train.image.recipe import Recipe
from cloud_train.image.reference import parse_reference
from cloud_train.image.registry import Repository
from tests.docker_engine import base_image, engine_or_skip
from tests.image.real_registry import running_registry
from tests.stores import StoreServer, server_or_skip

REPOSITORY = "cloud-train/jobs"
"""The repository, after the registry's host, of all jobs of the tests."""
KEPT = "CLOUD_TRAIN_TEST_REGISTRY"
"""The environment variable that names a folder for the images of all sessions."""
SCHEMES = {"aws": "s3", "gcp": "gs", "azure": "az"}
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"

_SMALL_BASE_DOCKERFILE = """\
FROM {base}
COPY constraints.txt /build/
RUN python3 -m pip install --no-cache-dir -c /build/constraints.txt \\
        azure-identity azure-storage-blob boto3 google-cloud-storage obstore requests \\
    && rm -rf /build
ENV HOME=/tmp PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /workspace
"""
SMALL_BASE = f"cloud-train-test/clouds:{hashlib.sha256(_SMALL_BASE_DOCKERFILE.encode()).hexdigest()[:12]}"
"""Python and the SDKs that the stores need, for jobs that train nothing: their `image.base`. Another version has another tag."""


@dataclass(frozen=True)
class Registry:
    """A registry that runs."""

    host: str
    """``address:port``."""
    log: Path

    @property
    def repository(self) -> str:
        """What the setting ``repository`` says."""
        return f"{self.host}/{REPOSITORY}"


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of all processes of this test session."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "clouds"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def registry(shared: Path, folder: Path, logins: Mapping[str, str] | None = None) -> Iterator[Registry]:
    """A registry on a free loopback port that keeps images in the session's storage and its log in ``folder``, which it makes.

    If there are ``logins``, it lets in only these users, each with their password (of at most 72 bytes, which is where bcrypt stops).
    """
    lines = [f"{user}:{_bcrypt(password)}\n" for user, password in (logins or {}).items()]
    with running_registry(folder, with_login=bool(logins), htpasswd="".join(lines), storage=_storage(shared)) as running:
        yield Registry(running.host, running.log)


def small_base(shared: Path) -> str:
    """``SMALL_BASE``, built in the engine if it is not there as it should be. Skips or fails the test where there is no engine."""
    engine_or_skip().close()
    with _locked(shared / "small-base.lock"), TemporaryDirectory() as name:
        context = Path(name)
        shutil.copy(CONSTRAINTS, context)
        (context / "Dockerfile").write_text(_SMALL_BASE_DOCKERFILE.format(base=base_image()))
        recipe = Recipe(context, base_image(), dockerfile=context / "Dockerfile")
        with EngineImages() as engine:
            engine.tag(prepare(engine, recipe, survey(context), print).image_id, SMALL_BASE)
    return SMALL_BASE


def base_in_registry(shared: Path, image: str) -> str:
    """Lay an image of the engine into the session's storage, under the tag with which a submission looks for its base, if it is not there:
    then submissions push only what is theirs. Returns its digest: every registry of the session has it as ``{repository}@{digest}``.
    """
    digest = shared / f"pushed-{hashlib.sha256(image.encode()).hexdigest()[:16]}"
    with _locked(shared / "push.lock"):
        if not digest.exists():
            digest.write_text(_push(shared, image))
    return digest.read_text()


def _push(shared: Path, image: str) -> str:
    with TemporaryDirectory() as folder, registry(shared, Path(folder, "registry")) as running, EngineImages() as engine:
        image_id = engine.base(image, Recipe.platform, print).image_id
        reference = parse_reference(f"{running.repository}:cloud-train-base-{image_id[7:39]}")
        engine.push(image_id, reference.repository, reference.version)
        with Repository(reference) as repository:
            manifest = repository.manifest(reference.version)
    assert manifest is not None, f"{reference} was pushed and is not there"
    return manifest.digest


def store(cloud: str) -> StoreServer:
    """The store of ``aws``, ``gcp`` or ``azure``, started once for this process. Its ``environment`` is what a simulated platform gives to
    its machines (and a test to itself, with ``tests.stores.use``) in place of their identity, so that they reach it.
    """
    return server_or_skip(SCHEMES[cloud])


def _storage(shared: Path) -> Path:
    return Path(os.environ.get(KEPT) or shared / "images")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time, among those of this session."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bcrypt(password: str) -> str:
    """A password as the registry's file of users has it, by the C library's own function: Python's ``crypt`` is deprecated."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    encrypted: bytes = library.crypt(password.encode(), b"$2b$04$abcdefghijklmnopqrstuu")
    return encrypted.decode()
