"""Run a function of untrusted bytes in a child process that can be killed.

No timeout in Python stops a decoder that loops in C, and no exception handler survives a decoder that
crashes. So each worker keeps one child, sends it the bytes of an image and reads back the result, and kills
and replaces it when it takes too long or too much memory, or dies. The child's answers are to be checked like
any other untrusted input: JSON and bytes with their lengths, never a pickle. The child gets no descriptors
but its pipes and standard error, only the environment that Python and the libraries need, writes no files,
and ends when its parent does.

The protocol: the child is sent one configuration (JSON), answers with one frame when it is ready, and then
one request at a time. A frame is a 4-byte big-endian length and that many bytes; a result is two frames, the
first of them JSON.
"""

import contextlib
import dataclasses
import json
import os
import pkgutil
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

from pipeline import json_bytes

Function = Callable[[bytes, Any], Any]
"""Maps bytes and options to a NamedTuple: one field of bytes, the others of JSON's types."""

_LENGTH: Final = struct.Struct(">I")
_MAX_HEADER: Final = 1 << 20
_MAX_BODY: Final = 256 << 20
_FAILURES: Final = ("decode_memory", "internal_error")
"""The child's own words for a request without a result."""
_READ_AHEAD: Final = 64 << 10  # bytes: most answers in one read; malloc would map twice as many anew
_START_SECONDS: Final = 60.0
# Linux's default limit for unprivileged users; the usual 64 KiB makes two processes take turns over an image.
_PIPE_BYTES: Final = 1 << 20
_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")
# Without the last two, glibc returns the memory of each image to the system and faults it in again: 0.25 ms.
_SETTINGS: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


class ChildFailedError(Exception):
    """Say why there is no answer, as a word of `pipeline.reasons` and a detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


class Child:
    """Ask a child process, one request at a time; calls from several threads wait for each other.

    `function` is "module:function", `options` a dataclass of simple fields, which it is called with.
    `memory_bytes` limits the child's allocations beyond its own size after start (enforced on Linux),
    `seconds` wall time per request.
    """

    def __init__(self, function: str, options: Any, *, memory_bytes: int, seconds: float) -> None:
        if memory_bytes <= 0 or seconds <= 0:
            raise ValueError("memory_bytes and seconds must be positive")
        self._seconds = seconds
        self._configuration = json.dumps(
            {
                "function": function,
                "kind": f"{type(options).__module__}:{type(options).__qualname__}",
                "options": dataclasses.asdict(options),
                "memory_bytes": memory_bytes,
                "seconds": seconds,
            }
        ).encode()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._polls: dict[IO[bytes], select.poll] = {}
        self._ahead = memoryview(b"")  # read, and not yet asked for

    def ask(self, data: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the fields of a result and its bytes.

        ChildFailedError where there is none: `decode_timeout`, `decode_memory`, `decode_crash`, or
        `internal_error` for a Python error of our own. RuntimeError only if no child can be started.
        """
        with self._lock:
            if self._child is None:
                self._start()
            self._wait_until_ready()
            try:
                fields, body = self._exchange(data)
            except ChildFailedError:
                self._stop()
                self._start()  # imports while the caller deals with this outcome
                raise
        if fields.get("failed") in _FAILURES:
            detail = str(fields.get("detail")).encode("utf-8", "replace").decode()
            raise ChildFailedError(fields["failed"], detail)
        return fields, body

    def start(self) -> None:
        """Start the child before it is needed."""
        with self._lock:
            if self._child is None:
                self._start()

    def replace(self) -> None:
        """End the child after an answer that cannot be trusted, and start another."""
        with self._lock:
            self._stop()
            self._start()

    def close(self) -> None:
        """End the child; the next request would start another."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment |= _SETTINGS | {"PYTHONPATH": os.pathsep.join(sys.path)}
        # A session of its own keeps the terminal's Ctrl-C away; -P keeps the working directory off sys.path.
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.images.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
        self._ready, self._ahead, self._polls = False, memoryview(b""), {}
        for pipe, event in ((self._child.stdin, select.POLLOUT), (self._child.stdout, select.POLLIN)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            _widen(pipe)
            self._polls[pipe] = select.poll()
            self._polls[pipe].register(pipe, event)

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        deadline = time.monotonic() + _START_SECONDS
        try:
            self._send(self._configuration, deadline)
            self._receive(_MAX_HEADER, deadline)
        except ChildFailedError as failure:
            self._stop()
            raise RuntimeError(f"the decoding process does not start: {failure.detail}") from failure
        self._ready = True

    def _exchange(self, data: bytes) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + self._seconds
        self._send(data, deadline)
        header = self._receive(_MAX_HEADER, deadline)
        body = self._receive(_MAX_BODY, deadline)
        if self._ahead:
            raise ChildFailedError("decode_crash", "more than an answer")
        try:
            fields = json_bytes.loads(header)
        except (ValueError, RecursionError) as error:
            raise ChildFailedError("decode_crash", f"an answer that is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ChildFailedError("decode_crash", "an answer that is no result")
        return fields, body

    def _send(self, data: bytes, deadline: float) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        left = [memoryview(_LENGTH.pack(len(data))), memoryview(data)]
        while left:
            try:
                written = os.writev(self._child.stdin.fileno(), left)
            except BlockingIOError:
                self._wait(self._child.stdin, deadline)
                continue
            except BrokenPipeError:
                raise self._death() from None
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]

    def _receive(self, limit: int, deadline: float) -> bytes:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        if length > limit:
            raise ChildFailedError("decode_crash", f"an answer of {length:,} bytes")
        return self._read(length, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        assert self._child is not None
        assert self._child.stdout is not None
        parts, missing = [self._ahead], size - len(self._ahead)
        while missing > 0:
            self._wait(self._child.stdout, deadline)
            try:
                part = os.read(self._child.stdout.fileno(), max(missing, _READ_AHEAD))
            except BlockingIOError:
                continue
            if not part:
                raise self._death()
            parts.append(memoryview(part))
            missing -= len(part)
        kept = len(parts[-1]) + min(missing, 0)
        self._ahead, parts[-1] = parts[-1][kept:], parts[-1][:kept]
        return b"".join(parts)

    def _wait(self, pipe: IO[bytes], deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not self._polls[pipe].poll(left * 1000):
            raise ChildFailedError("decode_timeout", f"more than {self._seconds:g} s")

    def _death(self) -> ChildFailedError:
        """Return how the child ended, which closed its pipes."""
        assert self._child is not None
        try:
            code = self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return ChildFailedError("decode_crash", "it closed its pipes")
        if code == -signal.SIGKILL:  # not by us: the kernel ran out of memory
            return ChildFailedError("decode_memory", "killed by the system")
        if code == -signal.SIGALRM:
            return ChildFailedError("decode_timeout", f"more than {self._seconds:g} s")
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return ChildFailedError("decode_crash", name)


def _widen(pipe: IO[bytes]) -> None:
    """Let a pipe hold a whole image, where the system can and allows it."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


# --- the child ---


def _limit(memory_bytes: int) -> None:
    """Limit the process from here on: its memory, files, core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():  # Linux: its first number is the address space in pages
        size = int(statm.read_text().split()[0]) * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _run(function: Function, data: bytes, options: Any) -> tuple[dict[str, Any], bytes]:
    try:
        fields = function(data, options)._asdict()
    except MemoryError:
        return {"failed": "decode_memory", "detail": "MemoryError"}, b""
    except Exception as error:  # noqa: BLE001 - the worker's boundary: becomes a counted row
        return {"failed": "internal_error", "detail": f"{type(error).__name__}: {error}"[:200]}, b""
    [name] = (name for name, value in fields.items() if isinstance(value, bytes))
    return fields, fields.pop(name)


def _serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answer requests until the source ends."""

    def receive() -> bytes | None:
        length = source.read(_LENGTH.size)
        if len(length) < _LENGTH.size:
            return None
        data = source.read(*_LENGTH.unpack(length))
        return data if len(data) == _LENGTH.unpack(length)[0] else None

    def send(*frames: bytes) -> None:
        sink.write(b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames))
        sink.flush()

    configuration = receive()
    if configuration is None:
        return
    settings = json.loads(configuration)
    kind, function = (pkgutil.resolve_name(settings[name]) for name in ("kind", "function"))
    given = settings["options"].items()
    options = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given})
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    _limit(settings["memory_bytes"])
    send(b"ready")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # libraries print messages that hostile files choose
    while (data := receive()) is not None:
        # Should the parent die meanwhile, the end of its pipe is not seen while C code runs. Linux's parent
        # death signal does not help: it is sent as soon as the *thread* that started the child ends.
        signal.setitimer(signal.ITIMER_REAL, settings["seconds"] + 1)
        fields, body = _run(function, data, options)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(json_bytes.dumps(fields), body)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing that a library prints gets between the answers
    with contextlib.suppress(BrokenPipeError):
        _serve(sys.stdin.buffer, answers)
