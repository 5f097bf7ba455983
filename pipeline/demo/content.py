"""Fill the sites of the demonstration web: pictures with texts, shared and copied ones, and oddities."""

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

from PIL import Image

from pipeline.demo import captions
from pipeline.demo.draw import PictureSpec, draw, encode, placeholder, random_spec
from pipeline.demo.edge_cases import LOOP_BACK, SVG, Answer, oddities
from pipeline.demo.markup import LAZY_ATTRIBUTES, ImageElement, ImageText, Markup, TextKind

Role = Literal["ordinary", "robots_disallow", "robots_partial", "robots_unavailable", "noai"]

_ROLE_REASONS: Final[dict[Role, str]] = {
    "robots_disallow": "robots_disallow",
    "robots_unavailable": "robots_unavailable",
    "noai": "opt_out_x_robots_tag",
}
PRIVATE: Final = "/private/"
"""The paths that the robots.txt of a robots_partial site disallows."""
_SHARES: Final = {"shared_url": 40, "same_bytes": 40, "dead_link": 30, "moved": 75, "moved_to_other_site": 75}
"""One of that many pictures is referenced elsewhere or copied; one dead or moved link stands beside that
many."""
_PLACEHOLDERS: Final = 30
_INLINE: Final = 5
_TRACKERS: Final = 20

# The texts beside an ordinary picture: percent, then (kind, nature) of each text.
_TEXTS: Final[tuple[tuple[int, tuple[tuple[TextKind, str], ...]], ...]] = (
    (56, (("alt", "caption"),)),
    (12, (("alt", "caption"), ("title", "title"))),
    (7, (("alt", "file_name"), ("figcaption", "caption"))),
    (5, (("figcaption", "caption"),)),
    (4, (("alt", "german"),)),
    (3, (("alt", "french"),)),
    (3, (("alt", "file_name"),)),
    (2, (("alt", "camera"),)),
    (3, (("alt", "boilerplate"),)),
    (2, (("alt", "hostile"),)),
    (1, (("alt", "too_long"),)),
    (2, ()),
)
_WRITERS: Final[dict[str, Callable[[PictureSpec, random.Random], str]]] = {
    "caption": captions.english,
    "title": captions.title,
    "german": captions.german,
    "french": captions.french,
    "file_name": captions.file_name,
    "camera": captions.camera,
    "boilerplate": captions.boilerplate,
    "hostile": captions.hostile,
    "too_long": captions.too_long,
    "unrelated": captions.english,
}


@dataclass
class Draft:
    """Collect one site while it is built; addresses in marks are root-relative or absolute."""

    name: str
    address: str
    folder: Path
    role: Role = "ordinary"
    language: Literal["en", "de", "fr"] = "en"
    charset: str = "utf-8"
    marks: list[ImageElement] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """The site's URL without a slash at its end."""
        return f"http://{self.address}"

    def put(self, path: str, data: bytes) -> None:
        """Write the file behind a path."""
        target = self.folder / path.removeprefix("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


class Placed(NamedTuple):
    """The place of an ordinary picture, for pages that refer to it later."""

    site: Draft
    mark_index: int
    path: str
    spec: PictureSpec


def fill(sites: list[Draft], sizes: list[int], seed: int) -> list[Placed]:
    """Put pictures, links between sites and oddities into `sites`; `sizes` counts the pictures of each.

    Returns the ordinary pictures of ordinary sites whose caption names their subject.
    """
    placed: list[Placed] = []
    for site, size in zip(sites, sizes, strict=True):
        rng = random.Random(f"{seed}/pictures/{site.name}")
        for number in range(size):
            placed.append(_place_picture(site, number, rng))
    ordinary = [site for site in sites if site.role == "ordinary"]
    good = [p for p in placed if p.site.role == "ordinary" and _named(p.site.marks[p.mark_index])]
    rng = random.Random(f"{seed}/links")
    _share_urls(good, ordinary, rng)
    _copy_files(good, ordinary, rng)
    _add_links(ordinary, len(placed), rng)
    _add_placeholders(ordinary, rng)
    _add_inline(ordinary, rng)
    _add_oddities(ordinary, random.Random(f"{seed}/oddities"))
    return good


def _named(mark: ImageElement) -> bool:
    return any(text.nature == "caption" for text in mark.texts)


def _texts(spec: PictureSpec, language: str, rng: random.Random) -> tuple[ImageText, ...]:
    weights, choices = zip(*_TEXTS, strict=True)
    wanted = rng.choices(choices, weights)[0]
    if language != "en" and rng.random() < 0.85:
        wanted = (("alt", "german" if language == "de" else "french"),)
    return tuple(ImageText(kind, _WRITERS[nature](spec, rng), nature) for kind, nature in wanted)


def _caption(spec: PictureSpec, rng: random.Random, nature: str = "caption") -> tuple[ImageText, ...]:
    return (ImageText("alt", _WRITERS[nature](spec, rng), nature),)


def _encode(image: Image.Image, rng: random.Random) -> tuple[bytes, str]:
    """Return the picture in a format of the web, JPEG mostly, and the file name's suffix."""
    roll = rng.random()
    if roll < 0.06 and image.width * image.height < 100_000:  # large PNGs of noise are slow to write
        return encode(image, "PNG", compress_level=1), ".png"
    if roll < 0.12:
        return encode(image, "WEBP", quality=rng.randint(70, 90), method=0), ".webp"
    quality, subsampling, progressive = rng.randint(72, 93), rng.choice((0, 2, 2)), rng.random() < 0.1
    data = encode(image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    return data, ".jpg"


def _place_picture(site: Draft, number: int, rng: random.Random) -> Placed:
    spec = random_spec(rng)
    image = draw(spec)
    data, suffix = _encode(image, rng)
    private = site.role == "robots_partial" and rng.random() < 0.5
    stem = f"{PRIVATE if private else '/images/'}{number:04d}"
    site.put(stem + suffix, data)
    texts = _texts(spec, site.language, rng)
    markup: Markup = "img"
    if any(text.kind == "figcaption" for text in texts):
        markup = "figure"
    elif suffix == ".jpg":
        markup = rng.choices(("img", "picture", "srcset", "lazy"), (75, 5, 8, 12))[0]
    mark = ImageElement(
        href=stem + suffix,
        texts=texts,
        markup=markup,
        alternatives=_alternatives(site, stem, image, markup),
        lazy_attribute=rng.choice(LAZY_ATTRIBUTES),
        label=spec.label,
        colour=spec.colour,
        reason="robots_disallow" if private else _ROLE_REASONS.get(site.role),
    )
    site.marks.append(mark)
    return Placed(site, len(site.marks) - 1, stem + suffix, spec)


def _alternatives(site: Draft, stem: str, image: Image.Image, markup: Markup) -> tuple[tuple[str, int], ...]:
    """Write the files of srcset beside the picture, and return the paths and widths."""
    if markup not in ("picture", "srcset"):
        return ()
    half = image.reduce(2)
    if markup == "picture":
        site.put(f"{stem}-half.webp", encode(half, "WEBP", quality=80, method=0))
        site.put(f"{stem}-full.webp", encode(image, "WEBP", quality=80, method=0))
        return (f"{stem}-half.webp", half.width), (f"{stem}-full.webp", image.width)
    site.put(f"{stem}-half.jpg", encode(half, "JPEG", quality=85))
    return (f"{stem}-half.jpg", half.width), (f"{stem}.jpg", image.width)


def _sample(good: list[Placed], special: str, rng: random.Random) -> list[Placed]:
    """Return some pictures not chosen for another purpose, marked with `special`."""
    free = [p for p in good if not p.site.marks[p.mark_index].special]
    chosen = rng.sample(free, min(len(free), max(2, len(good) // _SHARES[special])))
    for place in chosen:
        mark = place.site.marks[place.mark_index]
        place.site.marks[place.mark_index] = replace(mark, special=(special,))
    return chosen


def _share_urls(good: list[Placed], sites: list[Draft], rng: random.Random) -> None:
    """Show pictures on pages of other sites too, under their own URL, with other captions."""
    for site, index, path, spec in _sample(good, "shared_url", rng):
        for other in rng.sample([s for s in sites if s is not site], rng.randint(1, 3)):
            spelling = rng.choice((site.root, site.root, site.root.upper()))
            href = f"{spelling}{path}{rng.choice(('', '', '#full'))}"
            texts = _caption(spec, rng)
            mark = replace(site.marks[index], href=href, texts=texts, markup="img", alternatives=())
            other.marks.append(mark)


def _copy_files(good: list[Placed], sites: list[Draft], rng: random.Random) -> None:
    """Copy pictures to other sites, byte for byte, with other captions."""
    for number, (site, index, path, spec) in enumerate(_sample(good, "same_bytes", rng)):
        data = (site.folder / path.removeprefix("/")).read_bytes()
        for other in rng.sample([s for s in sites if s is not site], rng.randint(1, 2)):
            copy = f"/images/found-{number:03d}{Path(path).suffix}"
            other.put(copy, data)
            texts = _caption(spec, rng)
            mark = replace(site.marks[index], href=copy, texts=texts, markup="img", alternatives=())
            other.marks.append(mark)


def _add_links(sites: list[Draft], pictures: int, rng: random.Random) -> None:
    """Add dead links, and redirects to new pictures on the same and on another site."""
    for special in ("dead_link", "moved", "moved_to_other_site"):
        for number in range(max(2, pictures // _SHARES[special])):
            site, other = rng.sample(sites, 2)
            spec = random_spec(rng)
            old, new = f"/images/{special}-{number:03d}.jpg", f"/new/{special}-{number:03d}.jpg"
            if special == "moved":
                site.put(new, encode(draw(spec), "JPEG", quality=85))
                site.answers[old] = Answer(status=301, headers={"Location": new})
            elif special == "moved_to_other_site":
                other.put(new, encode(draw(spec), "JPEG", quality=85))
                site.answers[old] = Answer(status=302, headers={"Location": other.root + new})
            reason = "http_gone" if special == "dead_link" else None
            site.marks.append(_odd_mark(old, spec, special, reason, rng))


def _odd_mark(
    href: str, spec: PictureSpec, special: str, reason: str | None, rng: random.Random
) -> ImageElement:
    return ImageElement(
        href=href,
        texts=_caption(spec, rng),
        label=None if reason else spec.label,
        colour=None if reason else spec.colour,
        special=(special,),
        reason=reason,
    )


def _add_placeholders(sites: list[Draft], rng: random.Random) -> None:
    """Put one picture under a URL on each of many sites, with captions about other things."""
    data = encode(placeholder(), "JPEG", quality=85)
    for site in rng.sample(sites, min(len(sites), _PLACEHOLDERS)):
        site.put("/images/noimage.jpg", data)
        texts = _caption(random_spec(rng), rng, "unrelated")
        site.marks.append(
            ImageElement(
                href="/images/noimage.jpg", texts=texts, special=("placeholder",), reason="placeholder"
            )
        )


def _add_inline(sites: list[Draft], rng: random.Random) -> None:
    """Add pictures inlined in the page, vector images, and pixels that count visits."""
    for _ in range(_INLINE):
        spec = random_spec(rng, dimensions=(64, 48))
        inline = base64.b64encode(encode(draw(spec), "JPEG", quality=60)).decode("ascii")
        href = f"data:image/jpeg;base64,{inline}"
        rng.choice(sites).marks.append(_odd_mark(href, spec, "data_uri", "data_url", rng))
    for number in range(_INLINE):
        site = rng.choice(sites)
        site.put(f"/images/drawing-{number}.svg", SVG)
        site.marks.append(_odd_mark(f"/images/drawing-{number}.svg", random_spec(rng), "svg", "svg", rng))
    pixel = encode(Image.new("L", (1, 1), 255), "GIF")
    for number in range(_TRACKERS):
        site = rng.choice(sites)
        site.put("/pixel.gif", pixel)
        alt = (ImageText("alt", "", "empty"),) if number % 2 else ()
        mark = ImageElement(
            href=f"/pixel.gif?visit={number}", texts=alt, special=("tracker",), reason="too_small"
        )
        site.marks.append(mark)


def _add_oddities(sites: list[Draft], rng: random.Random) -> None:
    for odd in oddities(rng):
        site = rng.choice(sites)
        if odd.data is not None:
            site.put(odd.path, odd.data)
        if odd.answer != Answer():
            site.answers[odd.path] = odd.answer
        if odd.special == "redirect_loop":
            site.answers[LOOP_BACK[0]] = LOOP_BACK[1]
        site.marks.append(_odd_mark(odd.path, odd.spec, odd.special, odd.reason, rng))
