"""The parts of a worker that grow with a run: ``python -m benchmarks._long_run_client choose|listing|peers STORE RUN COUNT``.

``choose``: the choice of the checkpoint to resume from. ``listing``: what the uploader reads before its first upload, to know what to
prune. ``peers``: one look of node 0 at the other nodes. Each is one process, which ends afterwards.
"""

import sys
import tempfile
from pathlib import Path

from cloud_train.run import layout
from cloud_train.run.fencing import ancestor_in
from cloud_train.run.record import AttemptStatus, Program
from cloud_train.run.states import State
from cloud_train.run.succession import Branch
from cloud_train.storage.local import LocalStore
from cloud_train.storage.registry import open_store
from cloud_train.worker.nodes import NodeContext
from cloud_train.worker.remote import Remote
from cloud_train.worker.uploads.attempts import AttemptUploads
from cloud_train.worker.uploads.folders import FolderUploads


def main(action: str, url: str, run_id: str, count: int) -> None:
    """Carry out one action in a new workspace."""
    with tempfile.TemporaryDirectory() as name:
        workspace = LocalStore(Path(name))
        run = workspace.path_of(run_id)
        (run / layout.CHECKPOINTS).mkdir(parents=True)
        if action == "choose":
            remote = Remote(url, run_id)
            remote.bring_newest(run / layout.CHECKPOINTS, print, Branch(2, ancestor_in(remote.store(), run_id)))
        elif action == "listing":
            uploads = FolderUploads(workspace, open_store(url), run_id, Program(("true",), "/"), node=NodeContext(), note=print)
            assert len(uploads._checkpoints_there()) == count
        else:
            status = AttemptStatus(State.RUNNING, started=1.0, heartbeat=1.0, host="host", pid=1)
            workspace.put(f"{run_id}/{layout.status(1)}", status.to_json())
            AttemptUploads(workspace, open_store(url), run_id, 1, node=NodeContext(0, count)).look()
            assert (run / layout.status(1, count - 1)).exists()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
