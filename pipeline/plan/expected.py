"""How many samples a larger source will give, from a pilot's matches."""

import numpy as np

from pipeline.plan.yields import PilotPairs


def kept(balance: PilotPairs, growth: float, per_query: float, share: float = 1.0) -> float:
    """Return the expected samples in the set if there are `growth` times as many, of which `share` are there.

    Priorities are independent and uniform, so a query with n samples keeps each with probability
    min(1, k / n), and a sample is out only if none of its queries keeps it:
    growth x share x sum over samples of 1 - prod(1 - min(1, k / (growth x share x n_q))).
    """
    scale = growth * share
    if scale <= 0 or not balance.samples:
        return 0.0
    chance = np.minimum(1.0, per_query / np.maximum(scale * balance.matched, 1e-9))
    with np.errstate(divide="ignore"):
        out = np.log1p(-chance)
    lost = np.bincount(balance.sample, out[balance.query], minlength=balance.samples)
    return float(scale * -np.expm1(lost).sum())


def growth(pieces: float, novelty: float) -> float:
    """Return how many times as many distinct images `pieces` times as many pieces hold.

    Of n images drawn, the chance that the next is new is the share of singletons among the draws (Good 1953);
    held as the exponent of a power law, as vocabularies grow (Heaps).
    """
    return pieces**novelty if pieces > 1 else pieces


def pieces_for(
    balance: PilotPairs, novelty: float, per_query: float, share: float, pairs: float
) -> float | None:
    """Return how many times the pilot's pieces give `pairs` samples; None if no number up to 10^9 does."""

    def beyond(pieces: float) -> float:
        return kept(balance, growth(pieces, novelty), per_query, share) - pairs

    low, missing, high = 0.0, pairs, 1.0
    while (surplus := beyond(high)) < 0:
        low, missing, high = high, -surplus, 2 * high
        if high > 1e9:
            return None
    # False position; of an end that stays, half as much is believed (the Illinois rule): both ends move then.
    middle, found = high, surplus
    while abs(found) > 1e-12 * pairs and high - low > 1e-12 * high:
        before, middle = found, (low * surplus + high * missing) / (surplus + missing)
        found = beyond(middle)
        if found < 0:
            low, missing = middle, -found
            surplus /= 2 if before < 0 else 1
        else:
            high, surplus = middle, found
            missing /= 2 if before >= 0 else 1
    return middle


def reached(sites: np.ndarray, seconds: float, delay: float) -> float:
    """Return the share of the images that sites can give in that many seconds, one request every `delay`."""
    total = float(sites.sum())
    return float(np.minimum(sites, seconds / delay).sum()) / total if total and delay else 1.0


def politeness(sites: np.ndarray, delay: float) -> dict[str, float]:
    """Return the seconds after which 90%, 99% and all of the images can have been asked for.

    sites: images of each site. A site is asked once every `delay` seconds and all sites at a time, so after
    t seconds it has been asked for min(n, t / delay) of its images: a lower bound for any number of workers.
    """
    sizes = np.sort(sites)
    if not len(sizes):
        return {"90%": 0.0, "99%": 0.0, "100%": 0.0}
    total = sizes.sum()
    # Asked for by the time the i-th smallest site is done: all smaller sites, and as much of each larger
    # site.
    by_then = np.cumsum(sizes) + sizes * np.arange(len(sizes) - 1, -1, -1)
    found = {}
    for name, part in (("90%", 0.9), ("99%", 0.99), ("100%", 1.0)):
        i = min(int(np.searchsorted(by_then, part * total * (1 - 1e-12))), len(sizes) - 1)
        before = by_then[i - 1] if i else 0.0
        start = sizes[i - 1] if i else 0.0
        active = len(sizes) - i
        found[name] = float(min(sizes[i], start + (part * total - before) / active) * delay)
    return found
