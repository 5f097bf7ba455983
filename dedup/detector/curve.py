"""Draw a training run's loss and accuracy as one SVG file."""

import json
from typing import Any, Final

_WIDTH, _HEIGHT, _MARGIN = 640, 280, 48
_INK: Final = {"loss": "#4a6fa5", "accuracy": "#1a7f45"}


def svg(lines: list[str]) -> str:
    """Return the picture of metrics.jsonl's lines: loss on the left axis, proxy accuracy on the right."""
    rows: list[dict[str, Any]] = [
        row for row in map(json.loads, lines) if "loss" in row and "accuracy" in row
    ]
    most = max((row["samples"] for row in rows), default=1)
    tallest = max((row["loss"] for row in rows), default=1.0) or 1.0
    right, bottom = _WIDTH - _MARGIN, _HEIGHT - _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Loss and proxy accuracy over photographs seen" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="#6a7280">',
        f'<path d="M{_MARGIN} 16V{bottom}H{right}V16" fill="none" stroke="#9aa4b5"/>',
    ]
    for name, top in (("loss", tallest), ("accuracy", 1.0)):
        points = " ".join(
            f"{_MARGIN + (right - _MARGIN) * row['samples'] / most:.1f},"
            f"{bottom - (bottom - 16) * row[name] / top:.1f}"
            for row in rows
        )
        ink = _INK[name]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="2"/>')
        x, anchor = (_MARGIN - 6, "end") if name == "loss" else (right + 6, "start")
        parts.append(f'<text x="{x}" y="20" text-anchor="{anchor}" fill="{ink}">{top:.3g}</text>')
        parts.append(f'<text x="{x}" y="{bottom}" text-anchor="{anchor}" fill="{ink}">0</text>')
        label = f"{name} {rows[-1][name]:.3f}" if rows else name
        parts.append(
            f'<text x="{_MARGIN + 10 + 160 * (name == "accuracy")}" y="12" fill="{ink}">{label}</text>'
        )
    parts.append(
        f'<text x="{right}" y="{bottom + 20}" text-anchor="end">{most:,} photographs seen</text></svg>\n'
    )
    return "\n".join(parts)
