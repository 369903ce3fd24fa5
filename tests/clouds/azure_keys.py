"""The Azure simulator's identities, its Key Vault, and the token exchange of a container registry."""

import base64
import json
import re
import time
import uuid
from urllib.parse import parse_qs, urlencode

from tests.clouds.azure_shapes import error_answer
from tests.clouds.server import Answer, Request

CLIENT_ID = "99999999-8888-7777-6666-555555555555"
"""The managed identity that is assigned to the workspace and to its cluster."""
IDENTITY_SECRET = "the-identity-s-own-secret"
"""What a token's request carries, so that only those who have the identity get one."""
ARM = "https://management.azure.com"
VAULT = "https://vault.azure.net"
REGISTRY = "https://containerregistry.azure.net"
_DAY_SECONDS = 24 * 3600


class Keys:
    """Who may what, and the secrets of one simulator."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.created: dict[str, int] = {}
        """When a secret was made, in seconds since 1970."""
        self.deleted: set[str] = set()
        """Names that cannot be used again for now."""
        self.registry_actions = ["pull", "push"]
        """What the registry lets whoever asks do."""

    def token(self, request: Request) -> Answer:
        secret = request.headers.get("x-identity-header") or request.headers.get("secret")
        resource = request.query.get("resource", "").rstrip("/").removesuffix("/.default")
        if secret != IDENTITY_SECRET or not resource:
            return Answer.json({"error": "invalid_request", "error_description": "the secret or the resource is missing"}, 400)
        if "secret" in request.headers and request.query.get("clientid") != CLIENT_ID:
            # A machine of Azure ML: its identities answer only by their IDs (azure-sdk-for-python#30427).
            return Answer.json({"error": {"code": "UserError", "message": "No identity with this clientid is assigned"}}, 400)
        end = int(time.time()) + _DAY_SECONDS  # of the real time: azure-identity has no other
        return Answer.json(
            {
                "access_token": _token_for(resource),
                "expires_on": str(end),
                "resource": resource,
                "token_type": "Bearer",
                "client_id": request.query.get("client_id", CLIENT_ID),
            }
        )

    def exchange(self, request: Request) -> Answer:
        form = _form(request)
        if form.get("grant_type") != "access_token" or audience_of(form.get("access_token", "")) != REGISTRY or not form.get("service"):
            return Answer.json({"errors": [{"code": "UNAUTHORIZED", "message": "authentication failed"}]}, 401)
        return Answer.json({"refresh_token": f"refresh-for-{form['service']}"})

    def registry_token(self, request: Request) -> Answer:
        form = _form(request)
        if form.get("refresh_token") != f"refresh-for-{form.get('service')}":
            return Answer.json({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}, 401)
        _, name, _ = form["scope"].split(":")
        claims = {"access": [{"type": "repository", "name": name, "actions": self.registry_actions}]}
        return Answer.json({"access_token": f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"})

    def set_secret(self, request: Request, name: str) -> Answer:
        if not re.fullmatch(r"[0-9A-Za-z-]{1,127}", name):
            return error_answer(400, "BadParameter", "The request URI contains an invalid name.")
        if name in self.deleted:
            return error_answer(
                409, "Conflict", f"Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused."
            )
        self.secrets[name] = request.json()["value"]
        self.created[name] = int(time.time())
        return self.get_secret(request, name)

    def get_secret(self, _request: Request, name: str) -> Answer:
        if name not in self.secrets:
            return error_answer(404, "SecretNotFound", f"A secret with (name/id) {name} was not found in this key vault.")
        return Answer.json(
            {
                "value": self.secrets[name],
                "id": f"https://cloud-train.vault.azure.net/secrets/{name}/{uuid.UUID(int=7).hex}",
                "attributes": {"enabled": True},
            }
        )

    def delete_secret(self, _request: Request, name: str) -> Answer:
        if self.secrets.pop(name, None) is None:
            return error_answer(404, "SecretNotFound", f"A secret with (name/id) {name} was not found in this key vault.")
        self.deleted.add(name)
        return Answer.json(
            {
                "recoveryId": f"https://cloud-train.vault.azure.net/deletedsecrets/{name}",
                "id": f"https://cloud-train.vault.azure.net/secrets/{name}",
            }
        )

    def list_secrets(self, request: Request) -> Answer:
        """``maxresults`` on a page, which is 25 without it."""
        host, start = "https://cloud-train.vault.azure.net/secrets", int(request.query.get("$skiptoken", "0"))
        end = start + int(request.query.get("maxresults", "25"))
        listed = [{"id": f"{host}/{name}", "attributes": {"enabled": True, "created": self.created.get(name)}} for name in self.secrets]
        following = urlencode({**request.query, "$skiptoken": str(end)})
        link = f"http://{request.headers['host']}{request.path}?{following}" if end < len(listed) else None
        return Answer.json({"value": listed[start:end], "nextLink": link})


def _form(request: Request) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(request.body.decode()).items()}


def _token_for(resource: str) -> str:
    return f"token.{base64.urlsafe_b64encode(resource.encode()).decode()}"


def audience_of(token: str) -> str | None:
    _, _, encoded = token.partition(".")
    return base64.urlsafe_b64decode(encoded).decode() if token.startswith("token.") else None
