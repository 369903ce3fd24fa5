"""Where a registry may send its client: with a redirect, with the place of an upload, or with the realm that issues its tokens.

A registry can be a stranger's, and what it names is fetched from this machine, which reaches more than the registry does. So the rules of
``storage.url_safety`` hold here too, for every request: no metadata service and no link-local address. Loopback is for registries on this
machine, and for a registry whose own name leads there. Private networks stay allowed, over https: that is where companies keep theirs.
"""

import re
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from cloud_train.image.errors import RegistryError
from cloud_train.job.loopback import is_loopback, leads_to_this_machine
from cloud_train.storage.url_safety import AddressRefusedError, check_spelling

_PLAIN_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Addresses:
    """The addresses of one registry, ``host[:port]`` with its API at ``url``."""

    host: str
    url: str

    @property
    def loopback(self) -> bool:
        """Whether the registry may lead to loopback addresses, because it has one itself."""
        return is_loopback(self.host)

    def is_own(self, url: str) -> bool:
        """Whether a URL is of the registry's own server."""
        return urlsplit(url)[:2] == urlsplit(self.url)[:2]

    def joined(self, base: str, url: str) -> str:
        """A URL that the registry named, relative to ``base``. Raises RegistryError if it is not the URL of a server, or not encrypted."""
        try:
            whole = urljoin(base, url)
            read = urlsplit(whole)
        except ValueError:  # such as half of an IPv6 address
            raise RegistryError(f"{self.host} leads to {_shown(url)}, which is not a URL") from None
        if read.scheme not in ("http", "https") or not _PLAIN_HOST.fullmatch(read.netloc):
            raise RegistryError(f"{self.host} leads to {_shown(whole)}, which is not the plain URL of a server")
        if read.scheme != "https" and not is_loopback(read.netloc):
            raise RegistryError(f"{self.host} leads to {read.netloc}, which is not encrypted")
        return whole

    def check(self, url: str) -> None:
        """Raise RegistryError if the URL itself says that it leads where the registry may not; the address is checked on connecting."""
        netloc = urlsplit(url).netloc
        allowed = self.loopback or self.is_own(url)
        if leads_to_this_machine(netloc) and not allowed:
            raise self.refusal(f"{netloc} is this machine itself")
        try:
            check_spelling(url, loopback=allowed)
        except AddressRefusedError as error:
            raise self.refusal(error.message) from None

    def refusal(self, reason: str) -> RegistryError:
        """The error for an address that may not be reached."""
        return RegistryError(
            f"{self.host} leads to an address that no registry may name: {reason}",
            hint=f"check that {self.host} is the registry that you intend",
        )


def _shown(url: str) -> str:
    """A URL for a message, without a query, which may hold a signature."""
    return repr(url.partition("?")[0][:_SHOWN_CHARACTERS])
