"""Draw evaluation sets for the demonstration: a clean set, and a set with altered copies of web pictures.

The clean set holds pictures that must not be taken for copies: other takes of a picture of the web, and
pictures that bear a piece of a web picture as their logo.
"""

import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image, ImageOps

from pipeline.demo.draw import CLASSES, PictureSpec, draw, encode, random_spec

PER_CLASS: Final = {"clean": 24, "contaminated": 16}
PLANTED_PER_CLASS: Final = 4
_DIMENSIONS: Final = ((240, 180), (200, 200), (180, 240))
_LOGO: Final = 56  # pixels


class WebPicture(NamedTuple):
    """Name a picture of the web that may be planted."""

    url: str
    label: str
    file: Path
    sha256: str
    spec: PictureSpec


class DrawnExample(NamedTuple):
    """Record the truth about one evaluation example, as in a line of eval/truth.jsonl."""

    dataset: str
    example_id: str
    """The POSIX path inside the data set's folder."""
    label: str
    copy_of: str | None
    """The URL of the picture that this is an altered copy of."""
    sha256: str | None
    """The digest of that picture's bytes."""
    alteration: str | None
    like: str | None = None
    """The URL of the picture that this resembles without being a copy."""
    likeness: str | None = None
    """same_scene or same_logo."""


def _crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """Keep three quarters of the area, from anywhere."""
    width, height = image.width * 7 // 8, image.height * 7 // 8
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def _rotate(image: Image.Image, rng: random.Random) -> Image.Image:
    """Turn by 4 to 7 degrees, and cut the empty corners off."""
    turned = image.rotate(rng.choice((-1, 1)) * rng.uniform(4, 7), Image.Resampling.BICUBIC)
    return ImageOps.crop(turned, int(0.07 * max(image.size)))


def _flip(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageOps.mirror(image)


def _recompress(image: Image.Image, rng: random.Random) -> Image.Image:
    """Shrink, and go through a JPEG of poor quality."""
    small = image.resize((image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS)
    return Image.open(io.BytesIO(encode(small, "JPEG", quality=35))).convert("RGB")


ALTERATIONS: Final[dict[str, Callable[[Image.Image, random.Random], Image.Image]]] = {
    "crop": _crop,
    "rotate": _rotate,
    "flip": _flip,
    "recompress": _recompress,
}


def _same_scene(source: WebPicture, rng: random.Random) -> Image.Image:
    """Draw the subject in its scene once more: a step aside, under other light."""
    spec = source.spec
    x, y = spec.x + rng.uniform(-0.04, 0.04), spec.y + rng.uniform(-0.03, 0.03)
    angle = spec.angle + rng.uniform(-5, 5)
    return draw(replace(spec, x=x, y=y, angle=angle, seed=rng.getrandbits(32)))


def _same_logo(source: WebPicture, rng: random.Random) -> Image.Image:
    """Draw another picture, and put a piece of the source into its corner."""
    image = draw(random_spec(rng, source.label, rng.choice(_DIMENSIONS)))
    with Image.open(source.file) as original:
        whole = original.convert("RGB")
    side = min(whole.size) // 2
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    logo = whole.crop((left, top, left + side, top + side)).resize((_LOGO, _LOGO), Image.Resampling.LANCZOS)
    image.paste(logo, (image.width - _LOGO - 4, image.height - _LOGO - 4))
    return image


LIKENESSES: Final[dict[str, Callable[[WebPicture, random.Random], Image.Image]]] = {
    "same_scene": _same_scene,
    "same_logo": _same_logo,
}


def write_evaluation_sets(folder: Path, sources: list[WebPicture], seed: int) -> list[DrawnExample]:
    """Write `folder`/clean and `folder`/contaminated as class folders of PNG files, with truth.jsonl beside.

    Of each class the contaminated set holds up to PLANTED_PER_CLASS altered copies of different `sources`,
    the clean set as its first examples one of each of LIKENESSES.
    """
    examples = []
    for dataset, count in PER_CLASS.items():
        for label in CLASSES:
            rng = random.Random(f"{seed}/eval/{dataset}/{label}")
            candidates = [source for source in sources if source.label == label]
            wanted = PLANTED_PER_CLASS if dataset == "contaminated" else 0
            planted = rng.sample(candidates, min(wanted, len(candidates)))
            # Positions are drawn too: planted ones must not be those with the first names.
            places = dict(zip(rng.sample(range(count), len(planted)), planted, strict=True))
            for number in range(count):
                examples.append(_write_example(folder, dataset, label, number, places, rng))
            if dataset == "clean" and candidates:
                for number, likeness in enumerate(LIKENESSES):
                    alike = rng.choice(candidates)
                    target = folder / dataset / examples[number - count].example_id
                    image = LIKENESSES[likeness](alike, rng)
                    target.write_bytes(encode(image, "PNG", compress_level=1))
                    known = {"like": alike.url, "likeness": likeness}
                    examples[number - count] = examples[number - count]._replace(**known)
    lines = (json.dumps(example._asdict()) + "\n" for example in examples)
    (folder / "truth.jsonl").write_text("".join(lines), "utf-8")
    return examples


def _write_example(
    folder: Path, dataset: str, label: str, number: int, places: dict[int, WebPicture], rng: random.Random
) -> DrawnExample:
    source = places.get(number)
    origin: tuple[str, str, str] | tuple[None, None, None] = (None, None, None)
    if source:
        alteration = list(ALTERATIONS)[sorted(places).index(number) % len(ALTERATIONS)]
        origin = (source.url, source.sha256, alteration)
        with Image.open(source.file) as original:
            image = ALTERATIONS[alteration](original.convert("RGB"), rng)
    else:
        image = draw(random_spec(rng, label, rng.choice(_DIMENSIONS)))
    example_id = f"{label}/{number:03d}.png"
    target = folder / dataset / example_id
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode(image, "PNG", compress_level=1))
    return DrawnExample(dataset, example_id, label, *origin)
