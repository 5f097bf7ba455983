"""Recall of CenterFace on photographs whose faces somebody has boxed.

    python -m bench.faces DLIB/examples/faces

FOLDER has images and lists of boxes as dlib's imglab writes them. The folder examples/faces of
github.com/davisking/dlib has 9 photographs with 43 faces in testing.xml and training.xml, labelled by dlib's
author; boxes marked `ignore` count for nothing. A face is found if a box overlaps its label by half of their
union, and covered if its middle lies in a box, which is then blurred.
"""

import argparse
import io
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bench.tables import show
from pipeline.images.scoring import load, score_batches
from pipeline.processes import descendants

Box = Sequence[float]
"""Left, top, width, height."""


def labels(folder: Path) -> dict[str, list[tuple[Box, bool]]]:
    """Return the boxes of each image of all lists in a folder, and whether each is to be ignored."""
    found: dict[str, list[tuple[Box, bool]]] = {}
    for path in sorted(folder.glob("*ing.xml")):
        for image in ElementTree.parse(path).iter("image"):  # files that you name, of a repository
            boxes = [
                ([float(box.get(side, 0)) for side in ("left", "top", "width", "height")],
                 box.get("ignore") == "1")
                for box in image.iter("box")
            ]  # fmt: skip
            found[str(image.get("file"))] = boxes
    return found


def overlap(one: Box, other: Box) -> float:
    """Return the intersection of two boxes over their union."""
    sides = (
        max(0.0, min(one[n] + one[n + 2], other[n] + other[n + 2]) - max(one[n], other[n])) for n in (0, 1)
    )
    shared = next(sides) * next(sides)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def covers(box: Box, face: Box) -> bool:
    """Return whether the middle of a face lies in a box."""
    return all(box[n] <= face[n] + face[n + 2] / 2 <= box[n] + box[n + 2] for n in (0, 1))


def smaller(data: bytes) -> bytes:
    """Return a picture as a crawl might store it, its longer side of 384 pixels."""
    picture, buffer = Image.open(io.BytesIO(data)), io.BytesIO()
    picture.thumbnail((384, 384))
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def cpu_s() -> float:
    """Return the CPU time so far of this process and of its running children: networks have a child."""
    ticks = 0
    for pid in (os.getpid(), *descendants(os.getpid())):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print faces, found, covered and boxes that are no face, by the width of faces."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    known = labels(folder)
    names = sorted(known)
    samples = [((folder / name).read_bytes(), list[str]()) for name in names]
    scorer = load("faces")
    scored, started = score_batches(scorer, samples), cpu_s()
    score_batches(scorer, [(smaller(data), texts) for data, texts in samples])
    each = 1e3 * (cpu_s() - started) / len(samples)
    assert scored.boxes is not None
    rows: dict[str, list[tuple[float, bool]]] = {"up to 40 px": [], "41 to 80 px": [], "above": []}
    others = 0
    for name, boxes in zip(names, scored.boxes, strict=True):
        faces = [box for box, ignored in known[name] if not ignored]
        others += sum(not any(covers(box, face) for face, _ in known[name]) for box in boxes)
        for face in faces:
            best = max((overlap(box, face) for box in boxes), default=0.0)
            size = "up to 40 px" if face[2] <= 40 else "41 to 80 px" if face[2] <= 80 else "above"
            rows[size].append((best, any(covers(box, face) for box in boxes)))
    rows["all"] = [one for group in rows.values() for one in group]
    show(
        f"{len(names)} photographs; {others} boxes that are no labelled face",
        ("width of face", "faces", "found", "covered"),
        [
            (size, str(len(group)), str(sum(best >= 0.5 for best, _ in group)),
             str(sum(covered for _, covered in group)))
            for size, group in rows.items()
        ],
    )  # fmt: skip
    print(f"{each:.0f} ms of CPU for a picture whose longer side has 384 pixels")


if __name__ == "__main__":
    main()
