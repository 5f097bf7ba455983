"""Make evaluation sets that the paper made itself (appendix A.1): class folders that `openwit eval` reads.

    python -m train.evaluation.build_sets middle-frames VIDEOS OUT     # UCF101, Kinetics700, RareAct
    python -m train.evaluation.build_sets rendered-sst2 TABLE OUT      # SST-2's sentences as pictures
    python -m train.evaluation.build_sets country211 TABLE OUT         # photos by country

Tables are CSV, or TSV by their suffix, with a header.
"""

import argparse
import csv
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from pipeline.terminal import complaint

VIDEOS: Final = (".avi", ".mp4", ".webm", ".mkv", ".mov", ".mpg", ".mpeg")
_SECONDS: Final = 120  # that a video may take
SIDE: Final = 448  # of a rendered sentence, as the paper's
_MARGIN: Final = 16
_SIZES: Final = range(40, 7, -2)  # of the font, the largest first
SPLITS: Final = (("train", 150), ("valid", 50), ("test", 100))
"""Photos of a country in each split of Country211."""


class Built(NamedTuple):
    """The sets that were built; fields only."""

    written: int
    rejected: list[tuple[str, str]]
    """Inputs that became nothing, and why."""


def middle_frames(videos: Path, out: Path) -> Built:
    """Write the middle frame of every video below a folder as OUT/PATH.jpg; ValueError without videos."""
    files = sorted(file for file in videos.rglob("*") if file.suffix.lower() in VIDEOS and file.is_file())
    if not files:
        raise ValueError(f"no videos ({', '.join(VIDEOS)}) at {videos}")
    rejected = []
    for file in files:
        relative = file.relative_to(videos)
        command = [sys.executable, "-m", "train.evaluation.middle_frame", str(file)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            rejected.append((relative.as_posix(), f"took longer than {_SECONDS} s"))
            continue
        if done.returncode or not done.stdout:
            rejected.append((relative.as_posix(), "no frame can be decoded"))
            continue
        target = out / relative.with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(done.stdout)
    return Built(len(files) - len(rejected), rejected)


def rendered_sst2(table: Path, out: Path) -> Built:
    """Write sentences as black text on white, OUT/[SPLIT/]{negative,positive}/NUMBER.png.

    The table has sentence, label (0 or 1, or the words) and optionally split, as SST-2's files have them.
    """
    names = {"0": "negative", "1": "positive", "negative": "negative", "positive": "positive"}
    written, rejected = 0, []
    for number, row in enumerate(_rows(table, ("sentence", "label"))):
        label, sentence = names.get(row["label"].strip().lower(), ""), row["sentence"].strip()
        picture = render(sentence) if label and sentence else None
        if picture is None:
            reason = (
                "too long for the picture" if label and sentence else "no sentence, or a label but 0 and 1"
            )
            rejected.append((f"row {number}", reason))
            continue
        target = out / (row.get("split") or "") / label / f"{number:05d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)
        written += 1
    return Built(written, rejected)


def render(sentence: str) -> Image.Image | None:
    """Return a sentence on white, in the largest font in which it fits; None where none is small enough."""
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    room = SIDE - 2 * _MARGIN
    for size in _SIZES:
        font = ImageFont.truetype(str(path), size)
        lines: list[str] = []
        for word in sentence.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and font.getlength(longer) <= room:
                lines[-1] = longer
            else:
                lines.append(word)
        height = round(1.25 * size)
        if len(lines) * height <= room and all(font.getlength(line) <= room for line in lines):
            image = Image.new("RGB", (SIDE, SIDE), "white")
            draw = ImageDraw.Draw(image)
            top = (SIDE - len(lines) * height) // 2
            for number, line in enumerate(lines):
                draw.text((_MARGIN, top + number * height), line, font=font, fill="black")
            return image
    return None


def country211(table: Path, out: Path) -> Built:
    """Copy 150, 50 and 100 photos of each country as OUT/{train,valid,test}/COUNTRY/NAME.

    The table has path (relative to it) and country, a code of ISO 3166; countries with fewer than 300 photos
    are left out, as the paper does. Which photos are taken follows from their paths' hashes.
    """
    by_country: dict[str, list[str]] = {}
    rejected = []
    for row in _rows(table, ("path", "country")):
        country = row["country"].strip().upper()
        if len(country) == 2 and country.isalpha() and country.isascii():
            by_country.setdefault(country, []).append(row["path"])
        else:
            rejected.append((row["path"], "no country of two letters"))
    written = 0
    for country, paths in sorted(by_country.items()):
        if len(set(paths)) < sum(count for _, count in SPLITS):
            rejected += [(country, f"{len(set(paths))} photos, fewer than 300")]
            continue
        order = iter(sorted(set(paths), key=lambda path: hashlib.blake2b(path.encode()).digest()))
        for split, count in SPLITS:
            for _ in range(count):
                file = table.parent / next(order)
                target = (
                    out
                    / split
                    / country
                    / f"{hashlib.blake2b(str(file).encode(), digest_size=8).hexdigest()}"
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target.with_suffix(file.suffix.lower()))
                written += 1
    return Built(written, rejected)


def _rows(path: Path, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV or TSV as text; ValueError where a column is missing."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        tabs = path.suffix.lower() == ".tsv"
        # SST-2's quotes are part of its sentences.
        reader = (
            csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.DictReader(file)
        )
        if missing := [name for name in needed if name not in (reader.fieldnames or [])]:
            raise ValueError(f"{path} has no column {missing[0]}")
        for row in reader:
            yield {key: value or "" for key, value in row.items() if key is not None}


def main(argv: Sequence[str] | None = None) -> int:
    """Build a set; return 0, or 2 after a usage error. OUT/rejected.csv says what became nothing."""
    kinds = {"middle-frames": middle_frames, "rendered-sst2": rendered_sst2, "country211": country211}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args(argv)
    try:
        built = kinds[given.kind](given.source, given.out)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"build_sets: error: {complaint(str(error))}\n")
        return 2
    if built.rejected:
        with (given.out / "rejected.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("input", "reason"), *built.rejected])
    sys.stdout.write(f"{built.written:,} images at {given.out}; {len(built.rejected):,} inputs left out\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
