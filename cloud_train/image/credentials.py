"""Registry logins, as ``docker login`` stores them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cloud_train.errors import MissingDependencyError
from cloud_train.image.errors import ImageError


@dataclass(frozen=True)
class Login:
    """A user with a password, or a token that stands for both. Neither shows in a ``repr``."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    renew: "Callable[[], Login | None] | None" = field(default=None, repr=False, compare=False)
    """A renewed login for the same user, for one that expires while it is in use, as those of clouds do."""
    host: str = field(default="", compare=False)
    """Its registry, ``host[:port]``: it is sent to no other."""
    follows_realm: bool = field(default=False, compare=False)
    """Whether it may be sent to a token server on another host that the registry names. This is true of Docker's own logins only:
    clouds' registries are their own token servers.
    """

    def bound_to(self, host: str) -> "Login":
        """The login, bound to this registry, as are its renewals. Raises ImageError if it belongs to another registry."""
        if self.host and self.host != host:
            raise ImageError(f"the login for {self.host} is not sent to {host}", hint="name an image in the registry that the login is for")
        renew = self.renew
        return replace(self, host=host, renew=(lambda: _bound(renew(), host)) if renew is not None else None)


def _bound(login: Login | None, host: str) -> Login | None:
    return login.bound_to(host) if login is not None else None


def login_of(host: str) -> Login | None:
    """The login for a registry, from ``config.json`` (in DOCKER_CONFIG, or ~/.docker) or the credential helper that it names."""
    try:
        from docker import auth
        from docker.credentials import StoreError
        from docker.errors import DockerException
    except ImportError as error:
        raise MissingDependencyError(
            f"registry logins need the Docker SDK, which cannot be imported: {error}", hint="pip install 'cloud-train[docker]'"
        ) from error
    try:
        # The SDK warns about a helper that is not installed, and then fails, which is enough.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = auth.load_config().resolve_authconfig(host)
    except (DockerException, StoreError, ValueError) as error:
        # The message of a helper or a broken file may contain a password, so only the kind of the failure is passed on.
        raise ImageError(
            f"the login for {host} cannot be read from Docker's config.json or its credential helper ({type(error).__name__})",
            hint=f"try `docker login {host}`, or correct credsStore, credHelpers and auths in config.json",
        ) from None
    if not found:
        return None
    # The SDK capitalizes what comes from a helper, and not what comes from the file.
    values = {key.lower(): value for key, value in found.items() if value}
    login = Login(values.get("username", ""), values.get("password", ""), values.get("identitytoken", ""), follows_realm=True)
    return login.bound_to(host)
