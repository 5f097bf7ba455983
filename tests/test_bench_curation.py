"""The pool of bench.curation: the content of its captions, and that no length tells right ones from noise."""

import io

import numpy as np
from PIL import Image

from bench.curation import page, pool

ALTS = [" ".join(f"w{place}" for place in range(length)) for length in (3, 5, 9, 14)] * 20
COUNTS = {"airplane": 40, "cat": 20}


def photographs() -> dict[str, list[bytes]]:
    """Return photographs of noise by class."""
    rng, found = np.random.default_rng(0), {}
    for name, count in COUNTS.items():
        found[name] = []
        for pixels in rng.integers(0, 256, (count, 32, 32, 3), np.uint8):
            sink = io.BytesIO()
            Image.fromarray(pixels).save(sink, "JPEG")
            found[name].append(sink.getvalue())
    return found


def test_right_captions_are_alt_texts_with_the_class_in_place_of_a_word() -> None:
    """They are as long as alt texts and, but for a word, the same; those of other classes too."""
    for photo, caption, kind in pool.pairs(photographs(), COUNTS, ALTS, 0):
        named = [word for word in caption.split() if word in COUNTS]
        if kind in ("clean", "again", "wrong class"):
            [name] = named
            assert kind == "wrong class" or name == photo.label
            parts = zip(caption.split(), ALTS[[3, 5, 9, 14].index(len(caption.split()))].split(), strict=True)
            assert [one for one, other in parts if one != other] == [name]
        else:
            assert not named


def test_the_pool_is_decided_by_its_seed() -> None:
    """The same seed makes the same pairs, another seed others."""
    first, again, other = (list(pool.pairs(photographs(), COUNTS, ALTS, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_shares_of_kinds_are_said_with_the_noise() -> None:
    """Repeats of right pairs are no noise; rare classes are a share of right pairs."""
    said = page.shares("raw", {"again": 1, "boilerplate": 1, "clean": 1, "clean, rare": 1, "wrong alt": 4})
    kinds = "again 12.5%, boilerplate 12.5%, clean 25.0%, wrong alt 50.0%"
    assert said == f"raw: 8 pairs, noise 62.5% ({kinds}); rare classes 33.3% of the right pairs\n"
    assert page.shares("raw", {}) == ""


def test_the_most_frequent_classes_have_at_most_what_there_is() -> None:
    """Zipf's law beyond the photographs that a class has; classes with fewer than the most come later."""
    train = {name: [b""] * count for name, count in {"a": 50, "b": 50, "c": 9, "d": 30}.items()}
    counts = pool.zipf(train, 400, 2.0)
    assert sorted(counts.items()) == [("a", 50), ("b", 50), ("c", 9), ("d", 30)]
    assert list(pool.zipf(train, 40, 1.0).values()) == [40, 20, 13, 9]
