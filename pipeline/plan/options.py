"""The options of `openwit plan`."""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Predict what a build costs: source to read, core-hours, bytes, wall time, money, GPU-days."""

    COMMON: ClassVar = frozenset(
        {"run", "pairs", "pieces", "workers", "cores", "runner", "model", "gpu", "gpus", "prices", "check"}
    )
    """Options that --help explains."""
    EXAMPLES: ClassVar = (
        "openwit plan --pairs 10e6 --workers 8 --cores 4",
        "openwit plan --run pilot --pairs 400e6 --workers 64 --cores 8 --model ViT-B-32 --gpu H200 --gpus 8",
    )
    """Lines of the help."""

    run: str = ""
    """A finished pilot (`openwit crawl --sample 0.001`) whose yields to go by; without it, published figures
    of Common Crawl stand in, and only their order of magnitude is right."""
    pairs: float = 0.0
    """Samples wanted, such as 400e6; 0: as many as the pieces give."""
    pieces: int = 0
    """Source pieces (WAT files, say) to read; 0: as many as the wanted samples need."""
    queries: int = 500_000
    """Queries in the list, where there is no pilot that has them."""
    per_query: int = 20_000
    """Samples that a query contributes at most."""
    headroom: float = 1.25
    """As in the crawl: how many times --per-query is asked for at first."""

    eval_images: int = 0
    """Images of evaluation sets that `openwit overlap` looks for in the result; 0: it is not planned."""
    overlap_by: Literal["hashes", "lite"] = "hashes"
    """How it looks for them: hashes, its default, or lite, which is `--detector lite --no-hashes`."""
    workers: int = 16
    """Worker machines."""
    cores: int = 4
    """Cores of a worker machine."""
    max_inflight: int = 256
    """Requests at a time in one process; a machine has as many processes as cores."""
    request_seconds: float = 1.0
    """Seconds that a request takes, a mean."""
    host_delay: float = 1.0
    """Seconds between two requests to a site."""
    rounds: int = 3
    """As in the crawl: rounds of fetching at most."""
    unit_seconds: float = 3600.0
    """As in the crawl: seconds that a site has in a round; images that it cannot serve by the last round are
    missing."""
    runner: str = ""
    """As in the crawl, such as DataflowRunner: a cluster takes time to start each job. A crawl has one for
    the candidates, one to select, one per round and one to finish; the overlap analysis has two."""
    https_share: float = 0.95
    """Share of the images behind https."""

    model: str = "ViT-B-32"
    """Model to train; empty for none."""
    epochs: int = 0
    """Passes over the data; 0: the paper's for that model."""
    gpu: str = "H200"
    """Device to train on, as named in the rates."""
    gpus: int = 8
    """Devices that train together."""
    mfu: float = 0.0
    """Share of the device's peak that training reaches; 0: as the rates say."""

    rates: str = ""
    """TOML of measured rates; the default's come from `python -m bench.plan_rates`."""
    prices: str = ""
    """TOML of prices; the default's are round figures to be replaced by your own."""
    out: str = ""
    """Write the prediction to this file as JSON as well."""
    check: bool = False
    """Print the effective configuration, rates and prices, and predict nothing."""

    def __post_init__(self) -> None:
        """Raise ValueError, which names the alternative, for a plan that is not possible."""
        for name in ("per_query", "queries", "workers", "cores", "max_inflight", "gpus", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("pairs", "pieces", "epochs", "eval_images", "host_delay", "request_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        if not 0 <= self.https_share <= 1 or not 0 <= self.mfu <= 1:
            raise ValueError("https_share and mfu are shares, from 0 to 1")
        if not self.pairs and not self.pieces:
            raise ValueError("say how much: --pairs 400e6, or --pieces 90000")
        if self.pairs and self.pieces:
            raise ValueError("give --pairs or --pieces, not both: one follows from the other")
