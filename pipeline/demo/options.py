"""The options of `openwit demo`."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Build a dataset from a small web served on loopback, and train on it: five minutes, no network."""

    EXAMPLES: ClassVar = ("openwit demo --out runs/demo",)
    """Lines of the help."""

    out: str
    """Folder for the web and everything made from it. Run again to continue."""
    full: bool = False
    """Draw a larger web, train for longer, and measure the model in every way there is: fifteen minutes."""
    images: int | None = None
    """Pictures to draw; 600, or 1500 with --full."""
    sites: int | None = None
    """Sites to put them on, each at a loopback address of its own; 60, or 150 with --full."""
    per_query: int = 12
    """Samples that a query contributes at most; small, to show the effect of the balance."""
    train_minutes: float | None = None
    """Minutes of training a tiny CLIP on the CPU; 1, or 2 with --full. 0 leaves training out."""
    seed: int = 0
    """Decides the drawings and the balance."""
    fresh: bool = False
    """Remove the files of an earlier demo in --out first."""
    check: bool = False
    """Print the plan and write nothing."""

    def __post_init__(self) -> None:
        """Refuse a web too small to show anything."""
        images, sites = self.size
        if sites < 12 or images < 4 * sites:
            raise ValueError("give at least 12 --sites and four times as many --images")
        if self.minutes < 0:
            raise ValueError("train_minutes must not be negative")

    @property
    def size(self) -> tuple[int, int]:
        """Return how many pictures are drawn, and for how many sites."""
        images, sites = (1500, 150) if self.full else (600, 60)
        return self.images or images, self.sites or sites

    @property
    def minutes(self) -> float:
        """Return for how long the model is trained."""
        return (2.0 if self.full else 1.0) if self.train_minutes is None else self.train_minutes
