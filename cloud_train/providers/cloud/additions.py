"""The setting ``request``: fields of the cloud's own request, merged into the one that cloud-train builds, as the last word.

It is for features that cloud-train has no setting for. The result is validated like any other request. The fields by which cloud-train
recognizes a job, and those that start its worker, cannot be changed: a job that is not found again would be launched a second time.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def with_additions(
    built: Mapping[str, Any], settings: Mapping[str, Any], own: Sequence[str], cloud: str
) -> tuple[dict[str, Any], list[str]]:
    """The body ``built`` with the setting ``request`` of ``cloud``, and the reasons why it is refused; the body is then unchanged.

    ``own`` are cloud-train's own fields as dotted paths; the items of a list are not part of a path.
    """
    body = _merged(built, settings.get("request") or {})
    refused = [
        f"{cloud}.request: {path} is a field that cloud-train needs itself; remove it from {cloud}.request"
        for path in own
        if _at(built, path.split(".")) != _at(body, path.split("."))
    ]
    return (dict(built) if refused else body), refused


def _merged(body: Any, added: Any) -> Any:
    """``body`` with ``added``: mappings are merged, and other values replace those of the body. None removes a field.

    A mapping that meets a list of mappings, such as the worker pools of Vertex AI, is merged into each of them.
    """
    if isinstance(added, Mapping) and isinstance(body, list) and body and all(isinstance(item, Mapping) for item in body):
        return [_merged(item, added) for item in body]
    if isinstance(added, Mapping):
        there = body if isinstance(body, Mapping) else {}
        kept = {name: value for name, value in there.items() if name not in added}
        return {**kept, **{name: _merged(there.get(name), value) for name, value in added.items() if value is not None}}
    return list(added) if isinstance(added, tuple) else added


def _at(value: Any, path: Sequence[str]) -> Any:
    if not path:
        return value
    if isinstance(value, list):
        return [_at(item, path) for item in value]
    return _at(value.get(path[0]), path[1:]) if isinstance(value, Mapping) else None
