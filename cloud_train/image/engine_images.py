"""The images of a Docker Engine: finding bases, and adding new images.

Lookups use plain HTTP, which is fast. The Docker SDK is imported only to pull, load, push or tag an image.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloud_train.docker.engine import FREE_SPACE, connected, is_full
from cloud_train.docker.host import EngineUnavailableError, address_of, unavailable_explained
from cloud_train.docker.transport import is_private, sdk_client
from cloud_train.errors import MissingDependencyError
from cloud_train.image.config import BELOW, Base, check_platform
from cloud_train.image.errors import ImageError
from cloud_train.image.layers import Layer, Member, compress, digest_of, write_layer, write_tar
from cloud_train.image.reference import parse_reference

if TYPE_CHECKING:
    from cloud_train.image.tokens import Login

JOBS = "cloud-train-job"
"""The repository of the images that are loaded into an engine; ``docker image ls cloud-train-job`` lists them."""

_TIMEOUT_SECONDS = 600  # loading an image sends no response until it is done
_MOST_LOOKED_AT = 20
"""How many images are compared with a new one to find shared layers."""


@dataclass(frozen=True)
class EngineBase:
    """A base image in the engine."""

    image_id: str
    base: Base
    built: bool = False
    """Whether it was just built."""


class EngineImages:
    """The images of one engine, over one connection. Use it as a context manager."""

    def __init__(self, host: str | None = None) -> None:
        """``host`` is the engine's URL, by default chosen by Docker's own rules. Raises EngineUnavailableError if no engine responds."""
        self.address = address_of(host)
        self._closing = ExitStack()
        with _other_way_named():
            self._engine = self._closing.enter_context(connected(self.address))

    def __enter__(self) -> "EngineImages":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @cached_property
    def _client(self) -> Any:
        with _other_way_named(), unavailable_explained(self.address):
            return self._closing.enter_context(sdk_client(self.address, _TIMEOUT_SECONDS))

    def find(self, name: str) -> Mapping[str, Any] | None:
        """The engine's description of the image with this id or name; None if there is none."""
        with _other_way_named():
            return self._engine.image(name)

    def base(self, name: str, platform: str, note: Callable[[str], None]) -> EngineBase:
        """A base image, pulled if the engine does not have it. Raises ImageError if it does not exist or is for another platform."""
        found = self.find(name)
        if found is None:
            if name.startswith("sha256:"):
                raise ImageError(f"the Docker Engine has no image {name}", hint="use a base image that can be pulled")
            note(f"pulling {name}")
            self._pull(name, platform)
            found = self.find(name)
        if found is None:
            raise ImageError(
                f"the Docker Engine pulled {name}, but does not have it",
                hint=f"pull it with `docker pull {name}`, and check that it exists",
            )
        base = Base(
            os=found["Os"],
            architecture=found["Architecture"],
            variant=found.get("Variant") or "",
            diff_ids=tuple(found["RootFS"].get("Layers") or ()),
            settings=found.get("Config") or {},
        )
        check_platform(base, name, platform)
        return EngineBase(found["Id"], base)

    def name_for_building(self, image_id: str, name: str) -> str:
        """A name of the image for a Dockerfile's FROM, where BuildKit does not accept an id; tags it with ``name`` if it has none."""
        found = self.find(image_id) or {}
        names = [tag for tag in found.get("RepoTags") or [] if not tag.startswith("<none>")]
        if names:
            return str(names[0])
        self.tag(image_id, name)
        return name

    def tag(self, image_id: str, name: str) -> None:
        """Add a name to an image."""
        repository, _, tag = name.rpartition(":")
        with explained(f"tag the image {image_id}"):
            self._client.tag(image_id, repository, tag)

    def existing(self, image_id: str) -> str | None:
        """The id of the image with this configuration, if the engine has it."""
        found = self.find(image_id) or self.find(job_tag(image_id))
        return str(found["Id"]) if found else None

    def put(self, config: bytes, layers: Sequence[Layer], base: EngineBase, folder: Path) -> tuple[str, int]:
        """Make an image from a base and layers; returns its id and the number of bytes sent. ``folder`` is for temporary files.

        If the engine accepts an archive without the layers that it already has, only the new ones are sent. Otherwise the layers are
        written into a container of the base, and committed as an image with an id that the engine chooses.
        """
        needs_sdk()
        from docker.errors import APIError, ImageLoadError

        image_id = digest_of(config)
        archive = folder / "image.tar"
        _write_archive(archive, config, layers[self._known_layers(config, len(base.base.diff_ids)) :], folder)
        try:
            with explained("load an image", but=(APIError, ImageLoadError)), archive.open("rb") as file:
                for event in self._client.load_image(file):
                    if "errorDetail" in event:
                        raise ImageLoadError(event["errorDetail"]["message"])
            if self.find(image_id):
                return image_id, archive.stat().st_size
        except (APIError, ImageLoadError):
            # Engines with containerd's image store require all layers in the archive.
            pass
        return self._commit(json.loads(config)["config"], layers, base, job_tag(image_id))

    def push(self, image_id: str, repository: str, tag: str, login: "Login | None" = None) -> int:
        """Have the engine push an image; returns the number of bytes of new layers.

        ``login`` is for the registry, if it is not in Docker's config file.
        """
        name = f"{repository}:{tag}"
        if login is not None and login.host != parse_reference(repository).host:
            raise ImageError(f"refusing to use the login for {login.host or 'no registry'} to push to {repository}")
        if login is not None and not is_private(self.address):
            hint = "use TLS (DOCKER_TLS_VERIFY=1, with certificates in DOCKER_CERT_PATH), or ssh://user@host"
            raise ImageError(
                f"the connection to the Docker Engine at {self.address} is not encrypted, so the login was not sent", hint=hint
            )
        self.tag(image_id, name)
        sizes: dict[str, int] = {}
        with explained(f"push {name}"):
            try:
                for event in self._client.push(repository, tag=tag, stream=True, decode=True, auth_config=_auth_config(login)):
                    if "error" in event:
                        raise ImageError(f"the Docker Engine cannot push {name}: {event['error']}", hint=f"try `docker push {name}`")
                    if event.get("status") == "Pushing":
                        sizes[event.get("id", "")] = max(sizes.get(event.get("id", ""), 0), event["progressDetail"].get("current", 0))
            finally:
                self._client.remove_image(name, noprune=True)
        return sum(sizes.values())

    def _pull(self, name: str, platform: str) -> None:
        needs_sdk()
        from docker.errors import NotFound

        reference = parse_reference(name)
        with explained(f"pull {name}"):
            try:
                self._client.pull(str(reference.repository), tag=reference.version, platform=platform)
            except NotFound as error:
                raise ImageError(
                    f"the base image {name} does not exist for {platform}: {error.explanation}",
                    hint="check its name and tag; a private image needs `docker login`",
                ) from error

    def _known_layers(self, config: bytes, base_layers: int) -> int:
        """How many of the layers on top of the base the engine already has, as the lowest layers of other images."""
        document = json.loads(config)
        labels, diff_ids = document["config"]["Labels"], document["rootfs"]["diff_ids"]
        with explained("list images"):
            images = self._client.images(filters={"label": f"{BELOW}={labels[BELOW]}"})
        if not images:
            return 0
        # Earlier images of the same job are the most likely to share layers.
        images.sort(key=lambda each: -len(labels.items() & each["Labels"].items()))
        known = base_layers + 1
        for each in images[:_MOST_LOOKED_AT]:
            theirs = (self.find(each["Id"]) or {"RootFS": {}})["RootFS"].get("Layers") or []
            shared = next((number for number, pair in enumerate(zip(diff_ids, theirs, strict=False)) if pair[0] != pair[1]), len(theirs))
            known = max(known, shared)
        return known - base_layers

    def _commit(self, settings: Mapping[str, Any], layers: Sequence[Layer], base: EngineBase, name: str) -> tuple[str, int]:
        repository, _, tag = name.rpartition(":")
        # The image gets a single layer for all, so it must not claim to have the worker's layer.
        labels = {label: text for label, text in settings["Labels"].items() if label != BELOW}
        with explained("make an image from a container"):
            container = self._client.create_container(base.image_id, command=["true"], labels={"cloud-train.building": tag})["Id"]
            try:
                sent_bytes = 0
                for layer in layers:
                    with tempfile.TemporaryFile() as file:
                        sent_bytes += write_layer(layer, file)
                        file.seek(0)
                        self._client.put_archive(container, "/", file)
                made = self._client.commit(container, repository=repository, tag=tag, conf={**settings, "Labels": labels})
            finally:
                self._client.remove_container(container, v=True, force=True)
        return str(made["Id"]), sent_bytes


def engine_images_or_none(host: str | None = None) -> EngineImages | None:
    """The images of the engine at ``host``; None if no engine responds."""
    try:
        return EngineImages(host)
    except (EngineUnavailableError, MissingDependencyError):
        return None


def job_tag(image_id: str) -> str:
    """The name of an image in an engine; without a name, ``docker image prune`` would remove it."""
    return f"{JOBS}:{image_id[7:39]}"


@contextmanager
def _other_way_named() -> Iterator[None]:
    """Add to an error's hint that a push needs no engine."""
    try:
        yield
    except EngineUnavailableError as error:
        error.hint = f"{error.hint}; `cloud-train package --push` needs no engine"
        raise


def needs_sdk() -> None:
    """Raise MissingDependencyError without the Docker SDK, which is needed to change an engine's images, but not to find them."""
    try:
        import docker.errors  # noqa: F401 -- only to see whether it is installed
    except ImportError as error:
        words = f"loading images into a Docker Engine needs the Docker SDK, which cannot be imported: {error}"
        raise MissingDependencyError(words, hint="install it with: pip install 'cloud-train[docker]'") from error


@contextmanager
def explained(action: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn the SDK's errors into ImageError, except those in ``but``, which the caller handles."""
    needs_sdk()
    from docker.credentials import StoreError
    from docker.errors import APIError, DockerException

    try:
        yield
    except but:
        raise
    except APIError as error:
        words = str(error.explanation or error)
        if is_full(words):
            raise ImageError(f"the Docker Engine cannot {action}, because its disk is full ({words})", hint=FREE_SPACE) from error
        hint = "check the name, and check the engine with: docker info"
        raise ImageError(f"the Docker Engine cannot {action}: {words}", hint=hint) from error
    except StoreError:
        # A helper's message may contain its secrets.
        raise ImageError(
            f"the Docker Engine cannot {action}: a credential helper failed", hint="check credsStore in Docker's config.json"
        ) from None
    except (DockerException, OSError, ValueError) as error:  # the SDK passes on errors of requests, which are OSErrors
        raise EngineUnavailableError(
            f"the Docker Engine cannot {action}, or the connection was closed: {error}", hint="check that Docker is running, and retry"
        ) from error


def _write_archive(archive: Path, config: bytes, layers: Sequence[Layer], folder: Path) -> None:
    """Write an archive for ``docker load`` (https://github.com/moby/docker-image-spec) that contains only ``layers``."""
    names = [f"{diff_id[7:]}.tar" for diff_id in json.loads(config)["rootfs"]["diff_ids"]]
    image_id = digest_of(config)
    manifest = [{"Config": f"{image_id[7:]}.json", "RepoTags": [job_tag(image_id)], "Layers": names}]
    members = [
        Member("manifest.json", "file", content=json.dumps(manifest).encode()),
        Member(f"{image_id[7:]}.json", "file", content=config),
    ]
    for layer in layers:
        blob = compress(layer, folder / f"{layer.diff_id[7:]}.tar.gz")
        members.append(Member(f"{layer.diff_id[7:]}.tar", "file", source=blob.file))
    with archive.open("wb") as file:
        write_tar(members, file)


def _auth_config(login: "Login | None") -> dict[str, str] | None:
    """The login for the engine's API; None makes the SDK use Docker's config file."""
    return {"username": login.username, "password": login.password} if login is not None else None
