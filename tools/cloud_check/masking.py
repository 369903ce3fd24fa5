"""Hides secrets in what is recorded: by the name of their field, by their form, and if their value is known.

A value that was found under a secret's name is hidden wherever it appears later as well. With ``accounts``, names of the account, such as
its number, are replaced by placeholders.
"""

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from cloud_train.spec.secret_names import granting_parameter, looks_secret, without_credentials

COVER = "•••"
_SHORTEST = 8
"""Shorter values are not searched for elsewhere, because they may be part of other words."""
_NEW_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]")
_HARMLESS = frozenset({"nextToken", "NextToken", "nextForwardToken", "nextBackwardToken", "nextPageToken", "pageToken", "Key", "key"})
"""Positions in listings, which grant nothing by themselves, and the names of objects and tags."""
_VALUE_OF_SECRET = frozenset({"payload", "data", "value"})
"""The fields of Google's and Azure's secrets that hold their content."""
_PAIRED_NAMES, _PAIRED_VALUES = ("name", "Name", "key", "Key"), ("value", "Value")
_FORMS = tuple(
    re.compile(pattern)
    for pattern in (
        r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?",  # a JSON Web Token
        r"(?<=[Bb]earer )[\w.~+/=-]{8,}|(?<=[Bb]asic )[\w+/=-]{8,}",
        r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS's access keys
        r"\bya29\.[\w.-]+",  # Google's access tokens
        r"(?<=AccountKey=)[^;\s\"']+|(?<=SharedAccessSignature=)[^;\s\"']+|(?<=SharedAccessKey=)[^;\s\"']+",
        r"(?<=[?&;]sig=)[^&\s\"']+|(?<=X-Amz-Signature=)[^&\s\"']+|(?<=X-Amz-Credential=)[^&\s\"']+|(?<=X-Goog-Signature=)[^&\s\"']+",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    )
)
_ELEMENT = re.compile(r"<(?P<name>[A-Za-z]\w*)>(?P<value>[^<]+)</(?P=name)>")
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_AWS_ACCOUNT = re.compile(r"(?<![0-9A-Fa-f])\d{12}(?![0-9A-Fa-f])")
_NAMES_ACCOUNT = ("subscription", "resource_group", "workspace", "project", "service_account", "identity", "vault", "repository", "role")
"""Settings that say whose account it is."""


class Mask:
    """Hides what is known to be secret; safe to share between threads, because its words are only ever added."""

    def __init__(self, secrets: Iterable[str] = (), accounts: Mapping[str, str] | None = None) -> None:
        """``secrets`` are values to hide, ``accounts`` are names of the account and what replaces each."""
        self._secrets: tuple[str, ...] = ()
        self._accounts = dict(sorted((accounts or {}).items(), key=lambda pair: -len(pair[0])))
        for value in secrets:
            self.learn(value)

    def learn(self, value: str) -> None:
        """Hide this value from now on, also percent-encoded and as a string of JSON."""
        if len(value) < _SHORTEST or value in self._secrets:
            return
        with suppress(ValueError):  # a login, as HTTP's basic authentication has it
            user, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
            if user and colon and password.isprintable():
                self.learn(password)
        spelt = {value, quote(value, safe=""), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
        self._secrets = tuple(sorted({*self._secrets, *spelt}, key=len, reverse=True))

    def learn_headers(self, headers: Mapping[str, Any]) -> None:
        """Learn the credentials in a request's headers; only those: an access key's signature differs in each request."""
        for name, value in headers.items():
            text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
            if name.lower() in ("authorization", "proxy-authorization"):
                kind, _, credentials = text.partition(" ")
                if kind.lower() in ("bearer", "basic"):
                    self.learn(credentials)
            elif is_secret(name):
                self.learn(text)

    def text(self, text: str) -> str:
        """The text without secrets."""
        return self.words(without_credentials(_ELEMENT.sub(self._element, text)))

    def words(self, text: str) -> str:
        """A message without secrets. Addresses in it keep their query, as links to a console need."""
        text = self._known(text)
        for form in _FORMS:
            text = form.sub(COVER, text)
        return self._nameless(text)

    def document(self, value: Any, *, of_secret: bool = False) -> Any:
        """A parsed JSON document without secrets. ``of_secret``: it describes a secret, whose content is hidden too."""
        if isinstance(value, Mapping):
            paired = _is_paired(value)
            return {
                self.text(str(name)): self._covered(inner)
                if paired and name in _PAIRED_VALUES
                else self._field(str(name), inner, of_secret)
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self.document(inner, of_secret=of_secret) for inner in value]
        return self._string(value) if isinstance(value, str) else value

    def path(self, target: str) -> str:
        """A request's path and query, without the values of parameters that grant something."""
        path, question, query = target.partition("?")
        shown = [self._parameter(part) for part in query.split("&")] if question else []
        return self._nameless(self._known(path)) + ("?" + "&".join(shown) if shown else "")

    def _field(self, name: str, value: Any, of_secret: bool) -> Any:
        if is_secret(name) or (of_secret and name in _VALUE_OF_SECRET and isinstance(value, str)):
            return self._covered(value)
        return self.document(value, of_secret=of_secret)

    def _covered(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._covered(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._covered(inner) for inner in value]
        if isinstance(value, str):
            self.learn(value)
        return value if value is None or isinstance(value, bool) else COVER

    def _string(self, value: str) -> str:
        """A string, which may be a JSON document itself."""
        if value[:1] in ("{", "["):
            with suppress(ValueError):
                return json.dumps(self.document(json.loads(value)))
        return self.text(value)

    def _element(self, match: "re.Match[str]") -> str:
        if not is_secret(match["name"]):
            return match[0]
        self.learn(match["value"])
        return f"<{match['name']}>{COVER}</{match['name']}>"

    def _parameter(self, part: str) -> str:
        name, equals, value = part.partition("=")
        if granting_parameter(f"?{name}=x") or name.lower().startswith(("x-amz-", "x-goog-")):
            return f"{name}={COVER}"
        return self._nameless(self._known(f"{name}{equals}{value}"))

    def _known(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, COVER)
        return text

    def _nameless(self, text: str) -> str:
        for name, cover in self._accounts.items():
            text = text.replace(name, cover)
        if self._accounts:
            text = _AWS_ACCOUNT.sub("<account>", _UUID.sub("<id>", text))
        return text


def _is_paired(value: Mapping[Any, Any]) -> bool:
    """Whether it is the entry of a list of names and values, such as a container's variables, and is named like a secret."""
    return any(isinstance(name := value.get(field), str) and is_secret(name) for field in _PAIRED_NAMES)


def is_secret(name: str) -> bool:
    """Whether a field, header or parameter of this name holds a secret: ``SecretString`` and ``x-ms-token`` do, ``NextToken`` does not."""
    if name in _HARMLESS:
        return False
    spelt = _NEW_WORD.sub("_", name).strip("_")
    return looks_secret(spelt) or granting_parameter(f"?{spelt}=x") is not None


def secrets_of_environment(environment: Mapping[str, str] | None = None) -> list[str]:
    """The values of this process's environment variables whose names look like a secret's, and the parts of connection strings."""
    variables = os.environ if environment is None else environment
    found = [value for name, value in variables.items() if is_secret(name)]
    for name, value in variables.items():
        if name.endswith("CONNECTION_STRING"):
            found += [part.partition("=")[2] for part in value.split(";") if is_secret(part.partition("=")[0])]
    return [value for value in found if value]


def accounts_of(settings: Mapping[str, Any], store: str) -> dict[str, str]:
    """The names in a provider's settings and in the store's URL that say whose account it is → what replaces each."""
    found: dict[str, str] = {}
    for name in _NAMES_ACCOUNT:
        value = settings.get(name)
        if isinstance(value, str) and len(value) > 3:
            found[value] = f"<{name}>"
            if name == "repository" and value.partition("/")[0].endswith(".azurecr.io"):
                found[value.partition("/")[0]] = "<registry>"
    _, _, place = store.partition("://")
    for number, part in enumerate(place.split("/")[: 2 if store.startswith("az://") else 1]):
        if len(part) > 3:
            found[part] = "<storage-account>" if store.startswith("az://") and number == 0 else "<bucket>"
    return found
