"""Numbers as people read them, on pages and in tables alike."""

from typing import Final

_UNDERFLOW: Final = 1e-300  # below it a double loses digits, and in the end is 0


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def percent(share: float | None) -> str:
    """Return a share in percent, two digits where it is small; a dash for none."""
    if share is None:
        return "–"
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f}%"
    if value > 99.9:  # never say all where it is not
        return "> 99.9%"
    return f"{value:.1f}%" if value >= 1 else ("< 0.01%" if value < 0.01 else f"{value:.2g}%")


def points(difference: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign; a dash for none."""
    if difference is None:
        return "–"
    text = f"{100 * difference:+.2f}"
    return "0" if float(text) == 0 else text


def p_value(value: float | None) -> str:
    """Return a p-value, a dash for None; a value too small for a double is shown by its bound."""
    if value is None:
        return "–"
    if value < _UNDERFLOW:
        return f"< {_UNDERFLOW:.0e}"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def size(number: float) -> str:
    """Return bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} PB"


def short(value: float) -> str:
    """Return a number in three or four characters: 950, 12k, 1.5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def seconds(value: float | None) -> str:
    """Return a short time, s, with its unit; a dash for none."""
    if value is None:
        return "–"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{f'{value:.1f}'.removesuffix('.0')} s"


def duration(value: float) -> str:
    """Return how long something takes, s, as a clock shows it, or in days."""
    minutes, whole = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
