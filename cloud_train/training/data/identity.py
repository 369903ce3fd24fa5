"""The identity of the data, recorded in checkpoints, so that a resumed run can tell whether it learns from the same samples.

The record consists of digests (``Samples.fingerprint``): of the contents of data in memory, and of the names and sizes of images in files,
whose contents would take too long to read. It does not depend on where the data is.
"""

from typing import Any

from cloud_train.errors import JobError
from cloud_train.spec.problems import shortened
from cloud_train.training.data.dataset import DataSet
from cloud_train.training.description import ModelDescription

_SHOWN = 3


def identity(data: DataSet) -> dict[str, dict[str, Any]]:
    """The record of the data: for each part, the number of samples and a digest, both plain values."""
    return {name: {"samples": len(samples), "digest": samples.fingerprint()} for name, samples in data.parts().items()}


def differences(before: object, now: dict[str, dict[str, Any]]) -> list[str]:
    """How the data differs from what a checkpoint recorded, each as ``training samples: 60,000, now 90,000``; empty if it is the same.

    ``before`` comes from a manifest, so it may be anything.
    """
    if not isinstance(before, dict):
        return ["the checkpoint does not record its data"]
    found = []
    for name, part in now.items():
        recorded = before.get(name)
        if not isinstance(recorded, dict) or type(recorded.get("samples")) is not int:
            found.append(f"the checkpoint does not record its {name} samples")
        elif recorded["samples"] != part["samples"]:
            found.append(f"{name} samples: {recorded['samples']:,}, now {part['samples']:,}")
        elif recorded.get("digest") != part["digest"]:
            found.append(f"the same number of {name} samples, but different ones")
    return found


def check_meaning(before: ModelDescription, now: ModelDescription) -> None:
    """Raise JobError if the outputs or inputs of the network would mean something else than they did in the checkpoint.

    Weights that learned to tell ``cat`` from ``dog`` must not continue as those for ``bird`` and ``cat``.
    """
    if now.series is not None or before.series is not None:
        _check_series(before, now)
        return
    _check_names("characters" if now.sample_kind == "text" else "classes", before.classes, now.classes)
    _check_names("tokens", before.tokens or (), now.tokens or ())
    if before.image_shape != now.image_shape:
        shapes = ["×".join(map(str, description.image_shape or ())) or "none" for description in (before, now)]
        raise JobError(f"the checkpoint was trained on images of {shapes[0]}, but the data has images of {shapes[1]}", hint=_HINT)


def _check_series(before: ModelDescription, now: ModelDescription) -> None:
    """The same for what is forecast. How the series are scaled follows from their rows, which ``differences`` compares."""
    mine, theirs = (None if one.series is None else one.series.model_dump(exclude={"scales", "time", "id"}) for one in (now, before))
    if mine is None or theirs is None:
        raise JobError("the checkpoint and the job do not both forecast series", hint=_HINT)
    _check_names("targets", before.classes, now.classes)
    for name, value in mine.items():
        if theirs[name] != value:
            raise JobError(f"data.{name} is {value!r}, but was {theirs[name]!r} when the checkpoint was trained", hint=_HINT)


_HINT = "restore the data that the run started with, then resume it; for other data, submit a new run"


def _check_names(what: str, before: tuple[str, ...], now: tuple[str, ...]) -> None:
    if before == now:
        return
    known, found = set(before), set(now)
    missing, new = [name for name in before if name not in found], [name for name in now if name not in known]
    changes = [f"{_listed(missing)} missing" if missing else "", f"{_listed(new)} new" if new else ""]
    change = " and ".join(filter(None, changes)) or "they are in another order"
    raise JobError(f"the {what} of the data differ from those of the checkpoint: {change}", hint=_HINT)


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(shortened(name)) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
