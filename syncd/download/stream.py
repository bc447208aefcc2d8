"""One stream of a whole blob, for those who want parts of it."""

from syncd.download.segment import Segment


class WholeStream:
    """Routes one stream from a blob's start to the segments that want its bytes."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments
        self._offset = 0

    def write(self, parts: list[bytes | memoryview]) -> int:
        """The next bytes of the stream; how many of them somebody wanted."""
        written = 0
        for part in parts:
            view = memoryview(part)
            for segment in self._segments:
                start, end = max(self._offset, segment.position), min(self._offset + len(view), segment.end)
                if start < end:
                    written += segment.write((view[start - self._offset : end - self._offset],))
            self._offset += len(view)
        return written
