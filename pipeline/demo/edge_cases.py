"""Make the files and answers that a crawler meets beside ordinary pictures."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from PIL import Image

from pipeline.demo.draw import PictureSpec, draw, encode, random_spec

SVG: Final = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="320" height="240">'
    b'<circle cx="160" cy="120" r="80"/></svg>\n'
)
HTML_ERROR: Final = b"<!DOCTYPE html><html><body><h1>Hotlinking is not allowed</h1></body></html>\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Say how the server answers a path, where that is not just 200, the file and its usual type."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Seconds before the answer."""
    fail_first: int = 0
    """How many requests are answered with 503 and Retry-After: 1 before the real answer."""


class Oddity(NamedTuple):
    """Hold one odd address: its file, its answer, and the result that a crawl must reach."""

    special: str
    path: str
    data: bytes | None
    answer: Answer
    spec: PictureSpec
    """The caption's subject is in the picture; true only where `reason` is None."""
    reason: str | None


def oddities(rng: random.Random) -> Iterator[Oddity]:
    """Yield odd files and answers that need one site each; paths are unique."""
    for special, data, suffix, reason, spec in _files(rng):
        yield Oddity(special, f"/images/{special}{suffix}", data, Answer(), spec, reason)
    for special, answer, has_picture, reason in _ANSWERS:
        spec = random_spec(rng, dimensions=(320, 240))
        body = b"" if answer.status == 200 else None
        if has_picture:
            body = encode(draw(spec), "JPEG", quality=85)
        yield Oddity(special, f"/images/{special}.jpg", body, answer, spec, reason)


_LOOP: Final = "/images/redirect_loop.jpg"
_LOOP_BACK: Final = "/images/redirect_loop_back.jpg"
LOOP_BACK: Final = (_LOOP_BACK, Answer(status=302, headers={"Location": _LOOP}))
"""The other end of the redirect loop, path and answer; no page links to it."""

# special, answer, whether a picture is behind it, reason
_ANSWERS: Final[tuple[tuple[str, Answer, bool, str | None], ...]] = (
    ("gone_404", Answer(status=404), False, "http_gone"),
    ("gone_410", Answer(status=410), False, "http_gone"),
    ("denied_403", Answer(status=403), False, "http_denied"),
    ("server_error_500", Answer(status=500), False, "http_server_error"),
    ("redirect_loop", Answer(status=302, headers={"Location": _LOOP_BACK}), False, "redirect_loop"),
    ("redirect_without_target", Answer(status=302), False, "bad_redirect"),
    ("empty_body", Answer(), False, "empty_body"),
    ("throttled_once", Answer(fail_first=1), True, None),
    ("slow_answer", Answer(delay_s=1.5), True, None),
    ("noai_header", Answer(headers={"X-Robots-Tag": "noimageai"}), True, "opt_out_x_robots_tag"),
    ("tdm_header", Answer(headers={"tdm-reservation": "1"}), True, "opt_out_tdm_reservation"),
    ("wrong_type_header", Answer(headers={"Content-Type": "text/plain"}), True, None),
)


def _files(rng: random.Random) -> Iterator[tuple[str, bytes, str, str | None, PictureSpec]]:
    """Yield (special, bytes, suffix, reason, spec) for files that are odd in themselves."""

    def picture(width: int = 320, height: int = 240) -> tuple[Image.Image, PictureSpec]:
        spec = random_spec(rng, dimensions=(width, height))
        return draw(spec), spec

    image, spec = picture()
    jpeg = encode(image, "JPEG", quality=88)
    yield "truncated_jpeg", jpeg[: len(jpeg) // 2], ".jpg", "truncated", spec
    yield "html_as_png", HTML_ERROR, ".png", "not_image", spec
    yield "random_bytes", b"\x07" + rng.randbytes(4000), ".jpg", "not_image", spec
    yield "svg_as_png", SVG, ".png", "not_image", spec
    yield "bitmap", encode(image, "BMP"), ".bmp", "not_image", spec
    frames = [picture()[0].quantize(64) for _ in range(3)]
    animation = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)
    yield "animated_gif", animation, ".gif", "animated", spec
    yield "one_pixel", encode(Image.new("L", (1, 1)), "GIF"), ".gif", "too_small", spec
    yield "banner", encode(image.resize((1456, 90)), "JPEG"), ".jpg", "bad_aspect", spec
    yield "pixel_bomb", encode(Image.new("1", (12000, 12000)), "PNG"), ".png", "too_many_pixels", spec
    image, spec = picture()
    yield "still_gif", encode(image.quantize(128), "GIF"), ".gif", None, spec
    image, spec = picture()
    yield "cmyk_jpeg", encode(image.convert("CMYK"), "JPEG", quality=90), ".jpg", None, spec
    image, spec = picture()
    yield "gray_jpeg", encode(image.convert("L"), "JPEG", quality=90), ".jpg", None, spec
    image, spec = picture()
    yield "palette_png", encode(image.quantize(64), "PNG"), ".png", None, spec
    image, spec = picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    yield "alpha_png", encode(image, "PNG", compress_level=1), ".png", None, spec
    image, spec = picture(480, 320)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees to the right for display
    exif[0x010F] = "Example"  # Make
    turned = image.transpose(Image.Transpose.ROTATE_90)
    yield "exif_rotated", encode(turned, "JPEG", quality=90, exif=exif), ".jpg", None, spec
