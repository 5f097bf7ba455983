"""Draw a few pictures and serve them on loopback: the web that the examples crawl."""

import http.server
import random
import threading
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

THINGS = ("house", "boat", "tree", "car")
COLOURS = {"red": (200, 40, 40), "green": (40, 150, 60), "blue": (50, 70, 190), "yellow": (230, 210, 50)}
PLACES = ("at the lake", "by the road", "in the morning")


def draw(seed: int, colour: str, thing: str) -> Image.Image:
    """Return a picture of 320 x 240 pixels; two seeds give two scenes."""
    rng = random.Random(seed)
    sky = Image.new("RGB", (16, 12))
    sky.putdata([tuple(rng.randrange(90, 250) for _ in range(3)) for _ in range(16 * 12)])
    picture = sky.resize((320, 240), Image.Resampling.BICUBIC)
    pen, fill = ImageDraw.Draw(picture), COLOURS[colour]
    for _ in range(12):
        x, y, size = rng.randrange(320), rng.randrange(240), rng.randrange(8, 40)
        pen.ellipse((x, y, x + size, y + size), fill=tuple(rng.randrange(256) for _ in range(3)))
    x, y = rng.randrange(60, 180), rng.randrange(60, 110)
    if thing == "house":
        pen.rectangle((x, y + 40, x + 90, y + 110), fill=fill)
        pen.polygon([(x - 10, y + 40), (x + 45, y), (x + 100, y + 40)], fill=(90, 60, 40))
    elif thing == "boat":
        pen.polygon([(x, y + 70), (x + 110, y + 70), (x + 85, y + 105), (x + 25, y + 105)], fill=fill)
        pen.polygon([(x + 50, y), (x + 50, y + 65), (x + 95, y + 65)], fill=(240, 240, 240))
    elif thing == "tree":
        pen.rectangle((x + 40, y + 60, x + 55, y + 120), fill=(100, 70, 40))
        pen.ellipse((x, y - 10, x + 95, y + 75), fill=fill)
    else:
        pen.rectangle((x, y + 50, x + 120, y + 90), fill=fill)
        for wheel in (x + 15, x + 80):
            pen.ellipse((wheel, y + 75, wheel + 26, y + 101), fill=(20, 20, 20))
    return picture


def serve(folder: Path) -> http.server.ThreadingHTTPServer:
    """Draw 48 pictures into a folder, write urls.csv beside it, and serve the folder until `shutdown()`."""
    folder.mkdir(parents=True, exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8765), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lines = ["url,caption"]
    for seed in range(48):
        colour, thing = list(COLOURS)[seed % 4], THINGS[seed // 4 % 4]
        draw(seed, colour, thing).save(folder / f"{seed}.jpg", quality=90)
        lines.append(
            f"http://127.0.0.1:8765/{seed}.jpg,a {colour} {thing} {PLACES[seed // 16]} number {seed}"
        )
    (folder.parent / "urls.csv").write_text("\n".join(lines) + "\n")
    return server


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Write no log."""
