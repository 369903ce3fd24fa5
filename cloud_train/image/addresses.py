"""Decides to which URLs a registry may send its client: redirects, the location of an upload, and the realm that issues its tokens.

A registry may belong to a stranger, and this machine can reach addresses that the registry cannot. So the rules of ``storage.url_safety``
apply to every request: no metadata service and no link-local address. Loopback is allowed for registries on this machine, and for a
registry whose own name resolves to it. Private networks are allowed over https, because companies have registries there.
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
    """The URLs that a registry at ``host[:port]``, with its API at ``url``, may use."""

    host: str
    url: str

    @property
    def loopback(self) -> bool:
        """Whether the registry may use loopback addresses, because it has one itself."""
        return is_loopback(self.host)

    def is_own(self, url: str) -> bool:
        """Whether a URL is on the registry's own server."""
        return urlsplit(url)[:2] == urlsplit(self.url)[:2]

    def joined(self, base: str, url: str) -> str:
        """Resolve a URL from the registry against ``base``. Raises RegistryError if it is malformed or not encrypted."""
        try:
            whole = urljoin(base, url)
            read = urlsplit(whole)
        except ValueError:  # such as an incomplete IPv6 address
            raise RegistryError(f"{self.host} sent an invalid URL: {_shown(url)}") from None
        if read.scheme not in ("http", "https") or not _PLAIN_HOST.fullmatch(read.netloc):
            raise RegistryError(f"{self.host} sent an invalid URL: {_shown(whole)} is not a plain http(s) URL")
        if read.scheme != "https" and not is_loopback(read.netloc):
            raise RegistryError(f"{self.host} sent the URL of {read.netloc}, which is not encrypted")
        return whole

    def check(self, url: str) -> None:
        """Raise RegistryError if the URL itself is not allowed. The address to which it resolves is checked on connecting."""
        netloc = urlsplit(url).netloc
        allowed = self.loopback or self.is_own(url)
        if leads_to_this_machine(netloc) and not allowed:
            raise self.refusal(f"{netloc} is this machine itself")
        try:
            check_spelling(url, loopback=allowed)
        except AddressRefusedError as error:
            raise self.refusal(error.message) from None

    def refusal(self, reason: str) -> RegistryError:
        """The error for an address that is not allowed."""
        return RegistryError(
            f"{self.host} leads to a forbidden address: {reason}",
            hint=f"check that {self.host} is the right registry",
        )


def _shown(url: str) -> str:
    """A URL for a message, without its query, which may contain a signature."""
    return repr(url.partition("?")[0][:_SHOWN_CHARACTERS])
