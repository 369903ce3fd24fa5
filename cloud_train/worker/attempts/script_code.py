"""The identity of a script's code: recorded beside what an attempt saves, and compared with that of the checkpoint it starts from.

An image holds the code that the run recorded. On this machine a script runs where it is, so it is read when the attempt begins: it may have
been changed since the run was submitted, while it waited for its turn or between two attempts.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloud_train.run.record import RunRecord

RECORDED = "code"
"""The key of the identity in a manifest's fingerprint, and in the provenance of a run."""


def identity(record: RunRecord, store: Path) -> str:
    """The code's identity as JSON; empty if an image's run has recorded none. Takes up to a second: call it in a forked process."""
    from cloud_train.run.code_identity import identity_beside, in_manifest

    if record.plan.get("image"):
        code = record.provenance.get(RECORDED)
        return json.dumps(in_manifest(code)) if isinstance(code, dict) and isinstance(code.get("sha256"), str) else ""
    job_file = record.provenance.get("job_file")
    return json.dumps(in_manifest(asdict(identity_beside(Path(record.program.directory), Path(job_file) if job_file else None, store))))


def remark_on(checkpoint: Path, code: Mapping[str, Any]) -> str:
    """What to note if the code is not that of the checkpoint; empty if it is, or if that is unknown. Raises CorruptError."""
    from cloud_train.run.code_identity import code_difference
    from cloud_train.run.manifest import read_manifest

    manifest = read_manifest(checkpoint, checkpoint.parent.parent)
    difference = code_difference(manifest.fingerprint.get(RECORDED), code)
    maker = f" of attempt {manifest.attempt}" if manifest.attempt else ""
    return f"the code differs from that of checkpoint {checkpoint.name}{maker}: {difference}" if difference else ""


def with_code(code: Mapping[str, Any] | None, fingerprint: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A manifest's fingerprint with the code's identity."""
    return {**(fingerprint or {}), **({RECORDED: dict(code)} if code else {})}
