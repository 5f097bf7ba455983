"""Write the middle frame of one video as JPEG to standard output: a process that may be killed.

    python -m train.evaluation.middle_frame VIDEO

Videos come from the web, and their decoders are large: nobody else shares this process. It needs
opencv-python-headless. Exits 1 without a frame.
"""

import resource
import sys

import cv2

_MEMORY = 4 << 30  # bytes
_MOST_FRAMES = 200_000
_QUALITY = 95


def middle_frame(path: str) -> bytes:
    """Return frame n // 2 of n as JPEG, empty where none can be decoded.

    Frames are counted by decoding: the number in a header may be wrong.
    """
    count = 0
    counted = cv2.VideoCapture(path)
    while count < _MOST_FRAMES and counted.grab():
        count += 1
    counted.release()
    video = cv2.VideoCapture(path)
    for _ in range(count // 2):
        video.grab()
    found, frame = video.read()
    video.release()
    if not found:
        return b""
    done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return bytes(data) if done else b""


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    jpeg = middle_frame(sys.argv[1])
    sys.stdout.buffer.write(jpeg)
    raise SystemExit(0 if jpeg else 1)
