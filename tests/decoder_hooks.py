"""The worst that a child process may do; run through `Decoder(function="tests.decoder_hooks:NAME")`."""

import ctypes
import json
import os
import resource
import signal
import time
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.descriptors import PACKED_BYTES
from pipeline.images.pixels import Made, Wanted, make
from pipeline.images.process import Processed
from pipeline.images.process import process as really_process
from pipeline.options import ImageOptions


def obey(data: bytes, options: ImageOptions) -> Processed:
    """Do the task named by the first word of the data; decode everything else."""
    command = data.split(b" ", 1)[0].decode("latin-1")
    if command not in COMMANDS:
        return really_process(data, options)
    return COMMANDS[command]()


def dawdle(data: bytes, wanted: Wanted) -> Made:
    """Sleep when told to; decode everything else."""
    if data == b"sleep":
        time.sleep(60)
    return make(data, wanted)


def good(detail: str = "") -> Processed:
    descriptor = bytes(PACKED_BYTES).hex()
    return Processed(detail=detail, jpeg=b"\xff\xd8\xff", width=1, height=1, descriptor=descriptor)


def sleep() -> Processed:
    time.sleep(60)
    return good()


def loop_in_c() -> Processed:
    while True:
        pow(3, 10**7)


def crash() -> Processed:
    ctypes.string_at(0)
    return good()


def allocate() -> Processed:
    return good(str(np.ones(10 << 30, np.uint8).sum()))


def killed() -> Processed:
    os.kill(os.getpid(), signal.SIGKILL)
    return good()


def raises() -> Processed:
    raise LookupError("a bug")


def leave() -> Processed:
    os._exit(3)


def chatter() -> Processed:
    os.write(1, b"on the descriptor of standard output\n" * 100)
    os.write(2, b"on standard error\n" * 100)
    return good()


def peak() -> Processed:
    """Tell the most memory held, in KiB: getrusage's counts the process that forked this one as well."""
    status = Path("/proc/self/status").read_text()
    return good(status.split("VmHWM:")[1].split()[0])


def facts() -> Processed:
    descriptors = Path("/proc/self/fd")
    targets = [str(link.readlink()) for link in descriptors.iterdir() if link.is_symlink()]
    return good(
        json.dumps(
            {
                "pid": os.getpid(),
                "environment": sorted(os.environ),
                "descriptors": len(targets),
                "sockets": sum("socket" in target for target in targets),
                "threads": cv2.getNumThreads(),
                "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
                "session": os.getsid(0) == os.getpid(),
            }
        )
    )


def write_file() -> Processed:
    Path(os.environ.get("TMPDIR", "/tmp"), "decoder_hook").write_text("x")
    return good()


def lie() -> Processed:
    return Processed(jpeg=b"not a jpeg")


def lie_about_the_reason() -> Processed:
    return Processed(reason="bored")


def lie_about_a_type() -> Processed:
    return Processed(jpeg=b"\xff\xd8\xff", width="wide")  # type: ignore[arg-type]


def lie_about_the_descriptor() -> Processed:
    return good()._replace(descriptor="00" * (PACKED_BYTES - 1))


def surrogate() -> Processed:
    return good("\ud800")


def flood() -> Processed:
    return good("x" * (2 << 20))


def say_more() -> Processed:
    """Begin an answer whose second part is the beginning of the real answer."""
    os.write(3, b"\0\0\0\2{}\0\0\0\4")
    return good()


COMMANDS = {
    function.__name__: function
    for function in (
        sleep,
        loop_in_c,
        crash,
        allocate,
        killed,
        raises,
        leave,
        peak,
        chatter,
        facts,
        write_file,
        lie,
        lie_about_the_reason,
        lie_about_a_type,
        lie_about_the_descriptor,
        surrogate,
        flood,
        say_more,
    )
}
