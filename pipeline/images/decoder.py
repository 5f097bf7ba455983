"""Decode untrusted images for the crawl in a child process that can be killed."""

from types import TracebackType
from typing import Any, Final, Self

from pipeline.data.descriptors import PACKED_BYTES
from pipeline.images.child import Child, ChildFailedError
from pipeline.images.process import Processed
from pipeline.options import ImageOptions
from pipeline.reasons import REASONS

_TYPES: Final = {name: type(value) for name, value in Processed()._asdict().items() if name != "jpeg"}
_TEXTS: Final = [name for name, kind in _TYPES.items() if kind is str]


class Decoder:
    """Decode images in a child process; every input gets an outcome.

    Decoding takes up to 16 bytes a pixel. Outcomes beside those of `images.process`: `decode_timeout`,
    `decode_memory`, `decode_crash` and, for a Python error of our own, `internal_error`. One image is decoded
    at a time; calls from several threads wait for each other.

    `function` names the function that the child runs, as "module:function" with the signature of
    `images.process`.
    """

    def __init__(
        self,
        options: ImageOptions,
        *,
        memory_bytes: int = 3 << 29,
        seconds: float = 10.0,
        function: str = "pipeline.images.process:process",
    ) -> None:
        self._child = Child(function, options, memory_bytes=memory_bytes, seconds=seconds)
        self._descriptor_bytes = PACKED_BYTES if options.describe == "now" else 0
        self._child.start()

    def process(self, data: bytes) -> Processed:
        """Return the outcome for one image; RuntimeError only if no child can be started."""
        try:
            fields, jpeg = self._child.ask(data)
        except ChildFailedError as failure:
            return Processed(reason=failure.reason, detail=failure.detail)
        try:
            return _parse(fields, jpeg, self._descriptor_bytes)
        except ValueError as error:
            self._child.replace()
            return Processed(reason="decode_crash", detail=f"an answer that is not a result: {error}")

    def close(self) -> None:
        """End the child; the next `process` would start another."""
        self._child.close()

    def __enter__(self) -> Self:
        """Return the decoder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the decoder."""
        self.close()


def _parse(fields: dict[str, Any], jpeg: bytes, descriptor_bytes: int) -> Processed:
    """Return a result after checking every field's type and the reason; ValueError for anything else."""
    if fields.keys() != _TYPES.keys():
        raise ValueError("other fields than a result has")
    if any(type(fields[name]) is not kind for name, kind in _TYPES.items()):
        raise ValueError("a field of another type")
    "".join([fields[name] for name in _TEXTS]).encode()  # UnicodeEncodeError, a ValueError: lone surrogates
    result = Processed(jpeg=jpeg, **fields)
    if (result.reason not in REASONS) if result.reason else not jpeg.startswith(b"\xff\xd8\xff"):
        raise ValueError("neither a reason nor an image")
    if not result.reason and len(bytes.fromhex(result.descriptor)) != descriptor_bytes:
        raise ValueError("no descriptor")
    if any(len(bytes.fromhex(digits)) not in (0, 32) for digits in (result.phash, result.pdq)):
        raise ValueError("a hash of another length")
    return result
