"""A pull as Ollama's clients know it (``server/images.go`` PullModel, ``api/types.go`` ProgressResponse)."""

from functools import lru_cache

import msgspec

from syncd.api.answers import line
from syncd.jobs.progress import Phase, PullProgress
from syncd.oci.digest import Digest


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """``ProgressResponse``: a line of a pull."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class PullLines:
    """The lines of a pull for one reader, who is told what is new since it was told last."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._done: dict[Digest, int] = {}

    def moment(self, now: PullProgress | None) -> bytes:
        """What there is to tell of a moment of a running pull."""
        lines = [self._once("pulling manifest")]
        if now is not None:
            lines += self._blobs(now)
            if now.phase is Phase.PUBLISHING:
                lines += [self._once("verifying sha256 digest"), self._once("writing manifest")]
        return b"".join(lines)

    def success(self, last: PullProgress | None) -> bytes:
        """The last lines of a pull that ended well, whatever of it was told before."""
        before = self.moment(last)
        steps = [self._once("verifying sha256 digest"), self._once("writing manifest"), self._once("success")]
        return before + b"".join(steps)

    def _blobs(self, now: PullProgress) -> list[bytes]:
        lines = []
        for one in now.blobs:
            if self._done.get(one.blob.digest) != one.done:
                self._done[one.blob.digest] = one.done
                lines.append(_blob_line(one.blob.digest.hex, one.blob.size, one.done))
        return lines

    def _once(self, status: str) -> bytes:
        if status in self._told:
            return b""
        self._told.add(status)
        return line(Progress(status))


@lru_cache(maxsize=4096)
def _blob_line(digest: str, size: int, done: int) -> bytes:
    """Made once, however many read it."""
    return line(Progress(f"pulling {digest[:12]}", f"sha256:{digest}", size, min(done, size)))
