"""Two pictures of a comparison, as SVG without a plotting library: accuracy by number of teachers, and CMV."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil
from pathlib import Path
from typing import Any

from schemas.tables import FINE_TUNING, KEEP_ALL
from schemas.workspace import told_disk_errors

COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#b58900", "#444444")
"""Okabe and Ito's, which colour-blind readers tell apart, and three more; keep-all is vermilion."""
KEEP_ALL_COLOUR = "#d55e00"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 64, 190, 48, 52
LETTER = 7
"""Width of a letter in a name, about."""
Bar = tuple[float, float | None, float | None]


def write_pictures(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write the pictures of every student and objective that has a curve; return the files.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    made = []
    with told_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for section in found["sections"]:
            if not section["curves"]:
                continue
            name = "".join(
                c if c.isalnum() or c == "-" else "-" for c in f"{section['base_model']}-{section['objective']}"
            )
            for kind, draw in (("curve", curve_picture), ("cmv", cmv_picture)):
                file = folder / f"{kind}-{name}.svg"
                file.write_text(draw(section, found), encoding="utf-8")
                made.append(file)
    return made


def curve_picture(section: dict[str, Any], found: dict[str, Any]) -> str:
    """Accuracy against the number of teachers, a line per method with its interval over seeds; fine-tuning dashed."""
    curves = {m: {int(k): _bar(v) for k, v in points.items()} for m, points in section["curves"].items()}
    tuned = next(
        (_bar(m["accuracy"][section["dataset"]]) for m in section["methods"] if m["method"] == FINE_TUNING), None
    )
    bars = [b for points in curves.values() for b in points.values()] + ([tuned] if tuned else [])
    sizes = sorted({m for points in curves.values() for m in points})
    low, high = _range(bars)
    low, high = max(low, -0.02), min(high, 1.02)  # a t interval may leave the shares there are
    plot = _Plot(low, high, f"{section['objective']}: test accuracy by number of teachers")
    plot.grid(lambda v: f"{100 * v:.0f} %")
    step = plot.width / max(len(sizes), 1)
    for i, m in enumerate(sizes):
        plot.text(LEFT + step * (i + 0.5), HEIGHT - BOTTOM + 20, str(m), "middle")
    sets, seeds = "nested sets; " if found["nested"] else "", section["seeds"][1]
    plot.text(LEFT + plot.width / 2, HEIGHT - 10, f"teachers ({sets}bars: 95 % over {seeds} seeds)", "middle")
    labels = []
    if tuned:
        y = plot.y(tuned[0])
        plot.add(f'<line x1="{LEFT}" x2="{LEFT + plot.width}" y1="{y:.1f}" y2="{y:.1f}" class="dash"/>')
        labels.append((y, FINE_TUNING, "#777"))
    for k, (method, points) in enumerate(curves.items()):
        colour = _colour(method, list(curves))
        shift = (k - (len(curves) - 1) / 2) * min(7, step / (2 * len(curves)))
        at = [(LEFT + step * (sizes.index(m) + 0.5) + (shift if m > 1 else 0), b) for m, b in sorted(points.items())]
        path = " ".join(f"{x:.1f},{plot.y(b[0]):.1f}" for x, b in at)
        plot.add(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, bar in at:
            plot.whisker(x, bar, colour)
            plot.add(f'<circle cx="{x:.1f}" cy="{plot.y(bar[0]):.1f}" r="3.2" fill="{colour}"/>')
        labels.append((plot.y(at[-1][1][0]), method, colour))
    plot.labels(labels)
    return plot.svg()


def cmv_picture(section: dict[str, Any], found: dict[str, Any]) -> str:
    """A bar per method, in points, with its interval over seeds; 0 is keep-all."""
    bars = {m: _bar(v) for m, v in section["cmv"].items()}
    low, high = _range([*bars.values(), (0.0, None, None)])
    step = (WIDTH - LEFT - RIGHT) / max(len(bars), 1)
    lines = max(ceil(LETTER * max(map(len, bars), default=0) / step), 2)  # of names: what stands beside another fits
    title = f"{section['objective']}: CMV, in points of accuracy above keep-all"
    plot = _Plot(low, high, title, below=14 * (lines - 2))
    plot.grid(lambda v: f"{100 * v:+.0f}")
    zero = plot.y(0.0)
    for i, (method, bar) in enumerate(bars.items()):
        x, y = LEFT + step * (i + 0.5), plot.y(bar[0])
        colour = _colour(method, list(bars))
        plot.add(
            f'<rect x="{x - step * 0.3:.1f}" y="{min(y, zero):.1f}" width="{step * 0.6:.1f}" '
            f'height="{abs(y - zero):.1f}" fill="{colour}" opacity="0.75"/>'
        )
        plot.whisker(x, bar, "#222")
        plot.text(x, HEIGHT - BOTTOM + 16 + 14 * (i % lines), method, "middle")
    plot.add(f'<line x1="{LEFT}" x2="{LEFT + plot.width}" y1="{zero:.1f}" y2="{zero:.1f}" stroke="#222"/>')
    plot.text(LEFT + plot.width + 12, zero + 4, KEEP_ALL, "start", KEEP_ALL_COLOUR)
    plot.text(LEFT + plot.width + 12, TOP + 12, f"bars: 95 % over {section['seeds'][1]} seeds", "start", "#777")
    return plot.svg()


class _Plot:
    """An empty plot with a vertical axis from ``low`` to ``high``, and so much more room ``below`` it."""

    def __init__(self, low: float, high: float, title: str, below: int = 0) -> None:
        self.low, self.high = low, high
        self.width, self.height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        whole = HEIGHT + below
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {whole}" width="{WIDTH}" height="{whole}" '
            'font-family="system-ui, sans-serif" font-size="12">',
            "<style>.dash{stroke:#777;stroke-width:1.5;stroke-dasharray:6 4}.grid{stroke:#e4e4e4}"
            ".beyond{fill:none;stroke:#222}</style>",
            f'<rect width="{WIDTH}" height="{whole}" fill="white"/>',
        ]
        self.add(f'<text x="{LEFT}" y="26" font-size="15" font-weight="600" fill="#222">{escape(title)}</text>')

    def add(self, part: str) -> None:
        """Append a piece of SVG."""
        self.parts.append(part)

    def y(self, value: float) -> float:
        """Where a value is."""
        return TOP + self.height * (self.high - value) / (self.high - self.low)

    def text(self, x: float, y: float, text: str, anchor: str, colour: str = "#333") -> None:
        """Write a word."""
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>')

    def whisker(self, x: float, bar: Bar, colour: str) -> None:
        """Draw an interval, if there is one, with an arrowhead where it goes on beyond the plot."""
        if bar[1] is not None and bar[2] is not None:
            a, b = self.y(max(bar[1], self.low)), self.y(min(bar[2], self.high))
            self.add(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{a:.1f}" y2="{b:.1f}" stroke="{colour}" stroke-width="1.2"/>'
            )
            for end, y, up in ((self.low - bar[1], a, -1), (bar[2] - self.high, b, 1)):
                if end > 0:
                    self.add(f'<path d="M{x - 4:.1f} {y + 6 * up:.1f}L{x:.1f} {y:.1f}l4 {6 * up}" class="beyond"/>')

    def grid(self, said: Any) -> None:
        """Draw lines at round values."""
        step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if (self.high - self.low) / s <= 9)
        for i in range(round(self.low / step), round(self.high / step) + 1):
            value = i * step
            if self.low - 1e-9 <= value <= self.high + 1e-9:
                y = self.y(value)
                self.add(f'<line x1="{LEFT}" x2="{LEFT + self.width}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
                self.text(LEFT - 8, y + 4, said(value), "end", "#777")

    def labels(self, wanted: Sequence[tuple[float, str, str]]) -> None:
        """Write names at the right, at their heights or as near as they fit."""
        last, at = -99.0, []
        for y, name, colour in sorted(wanted):
            last = max(y, last + 15)
            at.append((last, name, colour))
        lowest = HEIGHT - 10.0
        for y, name, colour in reversed(at):
            self.text(LEFT + self.width + 10, min(y, lowest) + 4, name, "start", colour)
            lowest = min(y, lowest) - 15

    def svg(self) -> str:
        """The picture."""
        return "\n".join([*self.parts, "</svg>\n"])


def _bar(estimate: dict[str, Any]) -> Bar:
    return estimate["mean"], estimate["low"], estimate["high"]


def _range(bars: Sequence[Bar]) -> tuple[float, float]:
    """The values to show: all means, and intervals as far as they do not dwarf them."""
    means = [b[0] for b in bars]
    spread = max(max(means) - min(means), 0.02)
    ends = [e for b in bars for e in b[1:] if e is not None and min(means) - spread <= e <= max(means) + spread]
    low, high = min([*means, *ends]), max([*means, *ends])
    edge = max(0.05 * (high - low), 0.005)
    return low - edge, high + edge


def _colour(method: str, methods: Sequence[str]) -> str:
    if method == KEEP_ALL:
        return KEEP_ALL_COLOUR
    others = [m for m in methods if m != KEEP_ALL]
    return COLOURS[others.index(method) % len(COLOURS)]
