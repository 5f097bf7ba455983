"""The sides from which an evaluation image is described for the detector: fewer than the hash needs.

The network is trained to overlook mirroring, small rotations, and that a picture was cut; what it cannot see
at its size is the small part that a deep crop shows, so those parts are shown to it.
"""

from typing import Final

from dedup.views import VIEWS as ALL
from dedup.views import View

_NAMES: Final = (
    "whole",
    "crop 60% x 60% at 50%, 50%",
    *(f"crop 65% x 65% at {x}%, {y}%" for x, y in ((0, 0), (100, 0), (0, 100), (100, 100))),
)
VIEWS: Final[tuple[View, ...]] = tuple(view for name in _NAMES for view in ALL if view.name == name)
"""The views of an evaluation image. The first is the image itself."""
assert len(VIEWS) == len(_NAMES)
