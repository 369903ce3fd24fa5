"""Images in tar shards, by number: read at the offsets in the index, after waiting for their shard if it is still arriving."""

import hashlib
import os
import time
from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from cloud_train.data.shards import Part, ShardIndex, class_of
from cloud_train.errors import CorruptError, StoreError
from cloud_train.run.shard_exchange import ShardExchange
from cloud_train.training.data.dataset import ToldToStopError
from cloud_train.training.data.decoding import UnreadableImageError
from cloud_train.training.data.unpack import shown_bytes

_LOOK_SECONDS = 0.05
"""Time between two checks for a shard that has not arrived."""


class ArrivalError(StoreError):
    """A shard cannot be fetched and will not arrive."""


class ShardImages:
    """The images of one part of a sharded set, numbered shard by shard. As with files, a million names are one block of memory."""

    def __init__(self, arrivals: ShardExchange, index: ShardIndex, part: Part) -> None:
        """Raises StoreError for a missing shard and CorruptError for one of the wrong size, unless the shards are still arriving."""
        shards = index.of_part(part)
        members = list(chain.from_iterable(shard.members for _, shard in shards))
        number_of = {name: number for number, name in enumerate(index.classes)}
        self.classes = np.fromiter((number_of[class_of(member)] for member in members), np.int64, len(members))
        """Number of each image's class, int64 (images,)."""
        self._arrivals = arrivals
        self._files = [str(arrivals.folder / shard.name) for _, shard in shards]
        self._numbers = np.array([number for number, _ in shards], np.int64)
        self._counts = np.array([len(shard.members) for _, shard in shards], np.int64)
        self._shards = np.arange(len(shards)).repeat(self._counts)
        self._offsets = np.fromiter(chain.from_iterable(shard.offsets for _, shard in shards), np.int64, len(members))
        self._sizes = np.fromiter(chain.from_iterable(shard.sizes for _, shard in shards), np.int64, len(members))
        encoded = [member.encode(errors="surrogateescape") for member in members]
        self._ends = np.concatenate([np.zeros(1, np.int64), np.fromiter(map(len, encoded), np.int64, len(encoded)).cumsum()])
        self._names = b"".join(encoded)
        self._checksums = [shard.sha256 for _, shard in shards]
        self._groups_count = len(shards) if all(self._checksums) else 0
        if arrivals.source is None:
            for file, (_, shard) in zip(self._files, shards, strict=True):
                _check_there(file, shard.size)

    def __len__(self) -> int:
        return len(self.classes)

    def path(self, number: int) -> str:
        """The shard's file and, after a colon, the name of the image in it."""
        name = self._names[self._ends[number] : self._ends[number + 1]]
        return f"{self._files[self._shards[number]]}: {os.fsdecode(name)}"

    def content(self, number: int, is_stopped: Callable[[], bool]) -> bytes:
        """The bytes of an image, read from its shard, after waiting for the shard.

        Raises UnreadableImageError if the shard ends before the image does, ArrivalError if the shard cannot be fetched, and
        ToldToStopError if the attempt is asked to stop before the shard has arrived.
        """
        size, offset = int(self._sizes[number]), int(self._offsets[number])
        descriptor = self._open(int(self._shards[number]), is_stopped)
        try:
            content = bytearray()
            while len(content) < size and (piece := os.pread(descriptor, size - len(content), offset + len(content))):
                content += piece
        finally:
            os.close(descriptor)
        if len(content) < size:
            raise UnreadableImageError(self.path(number), "the shard ends before the image does")
        return bytes(content)

    def groups(self, numbers: np.ndarray) -> Tensor | None:
        """How many of the images with these ascending numbers are in each shard, int64 (shards,); None without an index.

        Tars without an index may be sorted by class, so training shard by shard would show the classes one after another.
        """
        if not self._groups_count:
            return None
        return torch.from_numpy(np.bincount(self._shards[numbers], minlength=self._groups_count))

    def fingerprint(self, numbers: np.ndarray) -> str:
        """A digest of these images' numbers, and of the shards' checksums, or without an index of all names and sizes."""
        digest = hashlib.sha256(numbers.tobytes() + self._shards.tobytes())
        if all(self._checksums):
            digest.update("".join(map(str, self._checksums)).encode())
        else:
            digest.update(self._names + self._ends.tobytes() + self._sizes.tobytes())
        return digest.hexdigest()

    def expect(self, numbers: np.ndarray) -> None:
        """Request the shards in the order in which these images need them, unless all have arrived."""
        if self._arrivals.source is None or all(os.path.exists(file) for file in self._files):  # noqa: PTH110 -- called often, for thousands of files
            return
        shards, first = np.unique(self._shards[numbers], return_index=True)
        self._arrivals.expect(self._numbers[shards[first.argsort()]].tolist())

    def _open(self, shard: int, is_stopped: Callable[[], bool]) -> int:
        """A descriptor of a shard's file, once it has arrived."""
        is_waiting = False
        while True:
            try:
                return os.open(self._files[shard], os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                if self._arrivals.source is None:
                    raise StoreError(f"{self._files[shard]} no longer exists", hint="restore it, then resume the run") from error
            if not is_waiting:
                self._arrivals.need(int(self._numbers[shard]))
                is_waiting = True
            if is_stopped() or self._arrivals.is_stopped:
                raise ToldToStopError(f"{self._files[shard]} has not arrived")
            if (reason := self._arrivals.failure) is not None:
                raise ArrivalError(f"cannot fetch {self._files[shard]}: {reason}")
            time.sleep(_LOOK_SECONDS)


def _check_there(file: str, size: int) -> None:
    try:
        found = os.stat(file).st_size  # noqa: PTH116 -- paths are kept as strings
    except OSError as error:
        raise StoreError(
            f"cannot read {file}: {os.strerror(error.errno or 0).lower()}", hint="restore the file: the index lists it"
        ) from error
    if found != size:
        hint = "copy it again, or pack the images again"
        raise CorruptError(f"{file} has {shown_bytes(found)} ({found:,} bytes), but its index says {size:,} bytes", hint)
