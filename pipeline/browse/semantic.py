"""Pictures that show the contents of a text or of another picture, by a CLIP model. It imports torch."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from pipeline.images.decode import BadImage
from pipeline.images.pixels import PixelDecoder, Wanted
from pipeline.index.search import Search
from pipeline.index.vectors import Floats, Found, Vectors

MOST: Final = 600
"""Most pictures that a question finds."""


class Semantic:
    """A model, and the vectors of a dataset's pictures by it; questions come from several threads."""

    def __init__(self, index: Path, checkpoint: str) -> None:
        """Load the model of a training run, or weights of open_clip, OpenAI or Hugging Face; ValueError."""
        from train.scorers import Towers

        self._towers: Any = Towers(checkpoint)
        self.vectors = Vectors(index, self._towers.fingerprint, self._towers.width)
        self._decoder = PixelDecoder(Wanted(form="centre", side=self._towers.side))
        self._lock = threading.Lock()

    def renew(self, search: Search, progress: Callable[[int, int], None]) -> int:
        """Encode the pictures that have no vector yet; return their number."""
        return self.vectors.renew(search, self._encode, progress)

    def close(self) -> None:
        """End the decoder."""
        self._decoder.close()

    def by_text(self, text: str, count: int) -> list[Found]:
        """Return the samples that a text describes best."""
        with self._lock:
            vector = self._towers.texts([text]).numpy()[0]
        return self.vectors.nearest(vector, min(count, MOST))

    def by_picture(self, data: bytes, count: int) -> list[Found]:
        """Return the samples that look most like a picture; ValueError if it cannot be decoded."""
        with self._lock:
            found, _ = self._encode([data])
        if not len(found):
            raise ValueError("that file cannot be decoded as a picture")
        return self.vectors.nearest(found[0], min(count, MOST))

    def _encode(self, pictures: list[bytes]) -> tuple[Floats, list[int]]:
        """Return unit vectors of the pictures that can be decoded, and their places."""
        pixels, places = [], []
        for place, data in enumerate(pictures):
            try:
                pixels.append(self._decoder.decode(data))
            except BadImage:
                continue
            places.append(place)
        if not pixels:
            return np.zeros((0, self._towers.width), np.float32), []
        return self._towers.images(pixels).numpy(), places
