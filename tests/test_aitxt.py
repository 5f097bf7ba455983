"""ai.txt: which images its lines are about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http import aitxt

SITE = "https://a.test"
KINDS = ["txt", "pdf", "html", "gif", "jpeg", "jpg", "png", "svg", "webp", "mp3", "mp4", "py"]
ALL = "# Spawning AI\n# Prevent datasets from using the following file types\n\nUser-Agent: *\n"
"""As Spawning's generator writes it."""
NOTHING_AT_ALL = ALL + "".join(f"Disallow: *.{kind}\n" for kind in KINDS) + "Disallow: /\nDisallow: *\n"
IMAGES = ALL + "Disallow: *.gif\nDisallow: *.jpg\nDisallow: *.png\n"
PROSE = "# AI Content Declaration\n\n- **License**: Spanish\n## Disallow\nWe allow: citing us.\n"
AGENTS = "User-Agent: GPTBot\nDisallow: /\n"


@pytest.mark.parametrize(
    ("text", "path", "pattern"),
    [
        (NOTHING_AT_ALL, "/a.jpg", "*.jpg"), (NOTHING_AT_ALL, "/image/7", "/"),
        (ALL + "Disallow: /\nDisallow: *", "/a.avif", "/"),
        (IMAGES, "/a.jpg", "*.jpg"), (IMAGES, "/a.jpg?w=3", "*.jpg"), (IMAGES, "/a.webp", None),
        # Nothing says what kind of image it is, so any kind that is reserved may be meant.
        (IMAGES, "/image/7", "*.gif"), (IMAGES, "/image.php?id=7", "*.gif"),
        (ALL + "Disallow: *.mp3\nDisallow: *.svg", "/image/7", None),
        # As in robots.txt, the longest decides; of equal ones the strictest, which is not as there.
        (ALL + "Disallow: /\nAllow: *.jpg", "/a.jpg", None),
        (ALL + "Disallow: /\nAllow: *.jpg", "/a.png", "/"),
        (ALL + "Allow: /\nDisallow: *.jpg", "/a.jpg", "*.jpg"),
        (ALL + "Allow: /\nDisallow: *", "/a.jpg", "*"),
        (ALL + "Disallow: /art/\nAllow: /art/free/", "/art/free/a.jpg", None),
        (ALL + "Disallow:", "/a.jpg", None), (ALL + "Allow: /", "/a.jpg", None),
        # Whom it is said to.
        (AGENTS, "/a.jpg", None), (AGENTS.replace("GPTBot", "img2dataset"), "/a.jpg", "/"),
        (NOTHING_AT_ALL + "User-Agent: openwit\nAllow: /", "/a.jpg", None),
        # The name stands for other files, too.
        (PROSE, "/a.jpg", None), ("<!doctype html><p>User-Agent: *\n", "/a.jpg", None), ("", "/a.jpg", None),
        ("Disallow: /", "/a.jpg", None),
    ],
)  # fmt: skip
def test_whether_an_image_is_reserved(text: str, path: str, pattern: str | None) -> None:
    assert aitxt.parse(text.encode()).reserving(SITE + path) == pattern


@given(st.binary() | st.text().map(str.encode), st.text("ab./*%?", max_size=9))
def test_no_file_is_a_crash(body: bytes, path: str) -> None:
    found = aitxt.parse(b"User-agent: *\nDisallow: " + body)
    assert found.size >= 0
    found.reserving(f"{SITE}/{path}")
