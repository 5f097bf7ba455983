"""Give a C module a stranger's input, and check its answers: `python -m tests.sanitized FILE.so ROUNDS`.

`tests/test_sanitized.py` runs it with modules that were built with sanitizers, which end the process at the
first byte read or written outside, and at undefined arithmetic.
"""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import simplejpeg

from pipeline.captions.contacts import mask as mask_contacts
from pipeline.captions.language import model_path
from pipeline.captions.match import _DictIndex, tokens
from pipeline.captions.text import _TEMPLATE_WORDS, TextRules, check, clean
from pipeline.data import descriptors
from pipeline.data.descriptors import pack
from pipeline.images import jpeg_square
from pipeline.images.resample import shrink
from pipeline.sources import wat_links
from pipeline.urls import _PLAIN_URL


def load(path: Path) -> ModuleType:
    """Return the module in a file, under the name that its source has."""
    loader = importlib.machinery.ExtensionFileLoader(path.stem, str(path))
    spec = importlib.util.spec_from_loader(path.stem, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def search(module: ModuleType, rng: np.random.Generator) -> None:
    """Search for random hashes, at random addresses; then with arguments of wrong sizes."""
    queries, count, radius = rng.integers(0, 9), rng.integers(0, 1000), int(rng.integers(0, 255))
    room = np.frombuffer(rng.bytes((2 * queries + count) * 32 + 7), np.uint8)[rng.integers(0, 8) :]
    hashes, mirrored, rows = (
        room[first * 32 : last * 32].reshape(-1, 32)
        for first, last in ((0, queries), (queries, 2 * queries), (2 * queries, 2 * queries + count))
    )
    weights = rng.integers(-32768, 32768, (2, queries, 256)).astype(np.int16)
    colours = rng.integers(-128, 128, (count, 256)).astype(np.int8)
    least = rng.integers(-(2**20), 2**20, 257).astype(np.int32)
    for level in range(1, module.LEVEL + 1):
        found = np.frombuffer(
            module.scan(hashes, mirrored, rows, radius, weights, colours, least, level), "i8, i4, i2, i2"
        ).tolist()
        expected = set()
        for flag, one in enumerate((hashes, mirrored)):
            distance = np.bitwise_count(one[:, None] ^ rows).sum(2, dtype=int)
            products = weights[flag].astype(int) @ colours.T.astype(int)
            near = np.argwhere((distance <= radius) & (products >= least[distance]))
            expected |= {(int(r), int(q), int(distance[q, r]), flag) for q, r in near}
        assert set(found) == expected and len(found) == len(expected)
    arguments = [hashes, mirrored, rows, radius, weights, colours, least, module.LEVEL]
    for _ in range(5):
        wrong = list(arguments)
        place = rng.integers(0, len(wrong))
        wrong[place] = (
            int(rng.integers(-(2**31), 2**31)) if place in (3, 7) else rng.bytes(rng.integers(0, 2000))
        )
        try:
            module.scan(*wrong)
        except ValueError:
            continue
        assert place in (3, 7) or len(wrong[place]) == arguments[place].nbytes


_CHARACTERS = [*map(chr, range(128)), *"aaabbb    --''__..", "é", "日", "\U0001f415", "\udc80"]


def match(module: ModuleType, rng: np.random.Generator) -> None:
    """Match random texts, some longer than the module's buffers on its stack, and objects that are none."""

    def text(most: int) -> str:
        return "".join(
            _CHARACTERS[place] for place in rng.integers(0, len(_CHARACTERS), rng.integers(0, most))
        )

    queries = [text(30) for _ in range(rng.integers(0, 40))]
    sound = [" ".join(tokens(query)) for query in queries] if rng.random() < 0.7 else queries
    try:
        index = module.Index(sound)
    except UnicodeEncodeError:
        assert any("\udc80" in query for query in sound)
        return
    plain = _DictIndex(sound) if sound is not queries else None
    for most in (5, 60, 1500):
        given = text(most) + " " + " ".join(queries[: rng.integers(0, 3)])
        if "\udc80" in given and rng.random() < 0.5:
            try:
                index.match(given)
            except UnicodeEncodeError:
                continue
            raise AssertionError(given)
        given = " ".join(tokens(given)) if not given.isascii() else given
        found = index.match(given)
        assert plain is None or found == plain.match(tokens(given)), (sound, given)
    _refuses(index.match, None, b"a", 3)


def language(module: ModuleType, rng: np.random.Generator) -> None:
    """Read lines of any characters; then models that are cut or damaged."""
    data = model_path().read_bytes()
    model = module.load(data)
    for most in (3, 60, 3000):
        codes = rng.integers(0, rng.choice([128, 0x800, 0x10FFFF]), rng.integers(0, most))
        line = "".join(chr(code) for code in codes.tolist() if not 0xD800 <= code < 0xE000)
        labels, scores = module.predict(model, line, int(rng.integers(1, 17)))
        assert len(labels) == len(scores) and list(scores) == sorted(scores, reverse=True)
        known = {name: rng.random() for name in ("de", "", "en", "xx", "ja")[: rng.integers(0, 6)]}
        letters = -1 if line.isascii() else int(rng.integers(0, 60))
        told = module.tell(
            model,
            line,
            letters,
            rng.choice([None, frozenset({"ja"})]),
            0.6,
            known,
            0.01,
            rng.choice(["", "en"]),
        )
        assert told is None or (0 <= told[1] <= 1 and 0 <= told[2] <= 1), told
    damaged = bytearray(data)
    for place in rng.integers(0, rng.choice([200, 20_000, len(data)]), rng.integers(1, 5)):
        damaged[place] = rng.integers(0, 256)
    for wrong in (data[: rng.integers(0, len(data))], bytes(damaged)):
        try:
            module.predict(module.load(wrong), "a dog on the beach", 5)
            module.tell(module.load(wrong), "a dog on the beach", -1, None, 0.6, {}, 0.01, "en")
        except ValueError:
            continue
    for arguments in (
        (model, "\ud800", 5),
        (model, "a", 0),
        (model, "a", 17),
        (model, b"a", 5),
        (None, "a", 5),
    ):
        try:
            module.predict(*arguments)
        except (TypeError, ValueError):
            continue
        raise AssertionError(arguments)
    sound = (model, "a dog", -1, None, 0.6, {"en": 0.5}, 0.01, "en")
    for place, value in enumerate((None, "\ud800", "1", "abc", "x", {1: 0.5}, None, None)):
        for wrong_one in (value, b"a"):
            try:
                module.tell(*sound[:place], wrong_one, *sound[place + 1 :])
            except (TypeError, ValueError):
                continue
            raise AssertionError(place, wrong_one)
    for wrong_priors in ({"en": "x"}, {"ko": None}):
        try:
            module.tell(*sound[:5], wrong_priors, *sound[6:])
        except TypeError:
            continue
        raise AssertionError(wrong_priors)


def text(module: ModuleType, rng: np.random.Generator) -> None:
    """Ask of random texts whether they are plain, and compare with the rules."""
    pieces = [
        *_CHARACTERS,
        *"aeiou  .-/(&",
        "photo ",
        "of ",
        "image ",
        "avatar",
        "555-123",
        "iso ",
        "the ",
        "1/",
        "dog ",
    ]
    rules = TextRules(max_repetition=float(rng.choice([0, 0.3, 0.5, 1])))
    for most in (3, 20, 60, 1500):
        given = "".join(pieces[place] for place in rng.integers(0, len(pieces), rng.integers(0, most)))
        words = module.plain(given, _TEMPLATE_WORDS, rules.max_repetition)
        if words:
            assert abs(words) == len(given.split()) and mask_contacts(clean(given)) == given, given
            assert words < 0 or check(given, rules) in (None, "caption_too_long"), given
    for wrong in (
        (b"a dog", _TEMPLATE_WORDS, 0.5),
        ("a dog", ["a"], 0.5),
        ("a dog on it", set(), "x"),
        ("a dog",),
    ):
        try:
            module.plain(*wrong)
        except TypeError:
            continue
        raise AssertionError(wrong)


def resample(module: ModuleType, rng: np.random.Generator) -> None:
    """Make random pictures smaller, at random addresses; then ask for impossible sizes."""
    height, width = (int(side) for side in rng.integers(1, rng.choice([5, 60, 300]), 2))
    room = np.frombuffer(rng.bytes(height * (width + 9) * 3 + 7), np.uint8)[rng.integers(0, 8) :]
    picture = room[: height * (width + 9) * 3].reshape(height, width + 9, 3)[:: rng.choice([-1, 1]), 9:]
    columns, rows = width - rng.random(), height - rng.random()
    size = int(rng.integers(1, max(2, columns + 1))), int(rng.integers(1, max(2, rows + 1)))
    extent = max(columns, size[0]), max(rows, size[1])
    for area in (False, True):
        found = [bytes(module.shrink(picture, *extent, *size, area, avx2)) for avx2 in (False, True)]
        assert found[0] == found[1] == shrink(picture, extent, *size, "area" if area else "cubic").tobytes()
    for wrong in (
        (picture, width + 0.5, height, 1, 1, True),
        (picture, float("nan"), height, 1, 1, True),
        (picture, width, height, width + 1, 1, False),
        (picture, width, height, 0, -1, False),
        (picture[..., :2], width, height, 1, 1, False),
        (picture[:0], width, 0.0, 1, 1, False),
        (picture.transpose(1, 0, 2), width, height, 1, 1, False),
        (b"abc", 1, 1, 1, 1, False),
    ):
        try:
            module.shrink(*wrong)
        except ValueError:
            continue
        assert wrong[0].shape == (1, 1, 3), wrong


_URL = [
    "http", "https", "://", "a", "-", "xn--", "b-1", ".", ".de", "/", "/c", "/d.jpg", "?", "x=1&y", "%",
    "é", "\x00", "\udc80",
]  # fmt: skip
_COMMON = ["https", "://", "a", ".", "de", "/c", "/d.jpg", "?", "x"]


def urls(module: ModuleType, rng: np.random.Generator) -> None:
    """Ask of parts of URLs in any order whether they are plain, and compare with the pattern."""
    for _ in range(30):
        parts = [part for part in _COMMON if rng.random() < 0.9]
        for _ in range(rng.integers(0, 3)):
            parts.insert(int(rng.integers(0, len(parts) + 1)), str(rng.choice(_URL)))
        url = "".join(parts)
        assert module.is_plain(url) == bool(_PLAIN_URL(url)), url
    _refuses(module.is_plain, None, b"http://a.de/c", 3)


_JSON = [
    '{"path":', '"IMG@/src"', ',"url":"', ',"alt":"', ',"title":"', "https://a-b.c.de", "//", "/b.svg",
    "?", "@", "\\", '\\"', "\\u00e9", "\\u2003", "\\ud83d", "\\u00", "\\n", "noai", "NoImage", "rights",
    "\x00", "é\u3000", "http://", "xn--", "x" * 60,
]  # fmt: skip
_LINK = [
    ',{"path":"IMG@/src"', ',"url":"', "/a", '"', ',"alt":"', " dog ", '"', ',"title":"', "cat", '"',
    "}",
]  # fmt: skip
_WORDS = (b"noai", b"noimage", b"rights", b"h\xc3", b'"alt":', b"xxxx", b"g@")


def wat(module: ModuleType, rng: np.random.Generator) -> None:
    """Find links and words in pieces of JSON in any order, and compare with Python's."""
    for _ in range(20):
        parts: list[str] = []
        for _ in range(rng.integers(0, 5)):
            parts += ["["] if rng.random() < 0.5 else []
            for part in _LINK:
                parts += [str(rng.choice(_JSON))] if rng.random() < 0.1 else []
                parts += [part] if rng.random() < 0.97 else []
        data = "".join(parts).encode()
        if data and rng.random() < 0.3:
            place = int(rng.integers(0, len(data)))
            data = data[:place] + rng.bytes(1) + data[place + 1 :]
        site, stop = str(rng.choice(["", "https://x.de"])), int(rng.integers(0, len(data) + 1))
        found = _or_refusal(lambda: module.links(data, site, 2083, 10_000, "alt", "title"))  # noqa: B023
        built, wat_links._wat = wat_links._wat, None
        try:
            assert found == _or_refusal(lambda: wat_links.links(data, site)), data  # noqa: B023
            assert module.words(data, stop, _WORDS) == wat_links.words(data, stop, _WORDS), data
            assert module.has(data, b"IMG") == wat_links.has(data, b"IMG"), data
        finally:
            wat_links._wat = built
    for call in (
        lambda: module.links("[", "", 2083, 10_000, "alt", "title"),
        lambda: module.links(b"[", "", 5000, 10_000, "alt", "title"),
        lambda: module.links(b"[", "", 2083, 20_000, "alt", "title"),
        lambda: module.words(b"abc", 4, _WORDS),
        lambda: module.words(b"abc", -1, _WORDS),
        lambda: module.words(b"abc", 3, (b"a",)),
        lambda: module.words(b"abc", 3, (b"a\x00b",)),
        lambda: module.words(b"abc", 3, ("abc",)),
        lambda: module.words(b"abc", 3, (b"abc",) * 33),
    ):
        assert _or_refusal(call) is None


def _refuses(call: Callable[[object], object], *given: object) -> None:
    for wrong in given:
        try:
            call(wrong)
        except TypeError:
            continue
        raise AssertionError(wrong)


def _or_refusal(call: Callable[[], object]) -> object:
    try:
        return call()
    except (OverflowError, TypeError, ValueError):
        return None


def described(module: ModuleType, rng: np.random.Generator) -> None:
    """Describe random thumbnails at random addresses; then give buffers of other sizes."""
    count, most = int(rng.integers(0, 4)), int(rng.choice([2, 20, 256]))
    room = rng.integers(0, most, count * 64 * 64 * 3 + 7).astype(np.uint8)[rng.integers(0, 8) :]
    pictures = room[: count * 64 * 64 * 3].reshape(count, 64, 64, 3)
    sound = [pictures, descriptors.basis(), descriptors._PLACES, True]
    expected = pack(descriptors._in_numpy(pictures))
    hashes = [one[:32] + bytes(544) + one[-1:] for one in expected]
    for avx2 in (False, True):
        assert module.describe(*sound, avx2) == b"".join(expected)
        assert module.describe(*sound[:3], False, avx2) == b"".join(hashes)
    for place, wrong in enumerate((rng.bytes(64 * 64 * 3 + 1), rng.bytes(16 * 64 * 8 - 8), b"")):
        try:
            module.describe(*sound[:place], wrong, *sound[place + 1 :])
        except ValueError:
            continue
        raise AssertionError(place)


def jpeg(module: ModuleType, rng: np.random.Generator) -> None:
    """Decode squares of pictures, whole and damaged, some of them beyond the picture."""
    assert not module.open("/nowhere") and any(map(module.open, jpeg_square._libraries()))
    width, height = rng.integers(1, 70, 2).tolist()
    sampling = str(rng.choice(["444", "422", "420", "440", "411", "Gray"]))
    noise = rng.integers(0, 256, (height, width, 3), np.uint8)
    data = bytearray(simplejpeg.encode_jpeg(noise, int(rng.integers(1, 100)), colorsubsampling=sampling))
    for _ in range(20):
        left, top, side = rng.integers(0, 80, 3).tolist()
        out = np.empty((side, side, 3), np.uint8)
        done = side > 0 and module.decode(bytes(data), left, top, side, out)
        if done:  # as in the whole picture
            whole = simplejpeg.decode_jpeg(bytes(data), "RGB", fastdct=True, fastupsample=True)
            assert np.array_equal(out, whole[top : top + side, left : left + side])
        data[rng.integers(0, len(data))] = rng.integers(0, 256)
        if not rng.integers(0, 8):
            del data[rng.integers(1, len(data) + 1) :]
    for wrong in (0, 3, -1, 1 << 40):
        assert _or_refusal(lambda size=wrong: module.decode(bytes(data), 0, 0, size, bytearray(11))) is None


CHECKS: dict[str, Callable[[ModuleType, np.random.Generator], None]] = {
    "_descriptors": described, "_jpeg": jpeg, "_kernels": search, "_language": language, "_match": match,
    "_resample": resample, "_text": text, "_urls": urls, "_wat": wat,
}  # fmt: skip


def main(file: str, rounds: str) -> None:
    """Try a module `rounds` times."""
    path = Path(file)
    module = load(path)
    for number in range(int(rounds)):
        CHECKS[path.stem](module, np.random.default_rng(number))
    sys.stdout.write(f"{rounds} rounds\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
