"""Shows results: the table as text and in docs/bench.md, and every row's history as a picture, docs/bench.svg."""

from html import escape
from pathlib import Path

from bench.judge import REMEMBERED, Result, Run

DOCS = Path(__file__).resolve().parents[2] / "docs"

BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"

# Sizes in pixels: a row's text stands left of its plot.
TEXT, PLOT, ROW, GAP = 450, 360, 46, 14


def table(results: list[Result]) -> str:
    """The table for a terminal."""
    lines = [("", "ratio", "repeats", "must", "aim", "usual", "verdict"), *map(_cells, results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def publish(results: list[Result], notes: list[str], runs: list[Run], docs: Path = DOCS) -> None:
    """Put table and picture into the documentation."""
    (docs / "bench.svg").write_text(svg(results, runs), encoding="utf-8")
    page = docs / "bench.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    cells = "\n".join("| " + " | ".join(_cells(result)) + " |" for result in results)
    body = (
        f"{runs[-1].date[:10]}, commit {runs[-1].commit}:\n\n"
        "| ratio | reached | repeats | must | aim | usual | verdict |\n|---|---|---|---|---|---|---|\n"
        f"{cells}\n\n" + "\n".join(notes) + "\n\n![Each ratio over the last runs](bench.svg)"
    )
    page.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")


def svg(results: list[Result], runs: list[Run]) -> str:
    """A plot for each row: its last runs from left to right, each with its spread, and what it should reach."""
    width = TEXT + PLOT + 90
    height = len(results) * (ROW + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, result in enumerate(results):
        parts += _plot(result, runs[-REMEMBERED:], 10 + number * (ROW + GAP))
    parts.append(
        f'<text x="10" y="{height - 14}" fill="#666">Red: must reach. Green, dashed: aim. '
        "Grey bars: from the smallest to the largest repeat of a run. Each plot begins at 0.</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _cells(result: Result) -> tuple[str, ...]:
    row, numbers = result.row, (result.ratio, min(result.repeats), max(result.repeats))
    ratio, low, high = (f"{number:.3f}" for number in numbers)
    usual = f"{result.usual:.3f}" if result.usual else "-"
    return row.title, ratio, f"{low} to {high}", f"{row.must:g}", f"{row.aim:g}", usual, result.verdict


def _plot(result: Result, runs: list[Run], top: int) -> list[str]:
    row, name = result.row, result.row.name
    runs = [run for run in runs if name in run.ratios]
    highest = max([row.aim, *(run.spread[name][1] for run in runs)]) * 1.05

    def y(ratio: float) -> float:
        return round(top + ROW * (1 - ratio / highest), 1)

    step = PLOT / max(len(runs), 1)
    points = [(round(TEXT + step * (place + 0.5), 1), run) for place, run in enumerate(runs)]
    colour = "#c00" if result.failed else "#222"
    end = TEXT + PLOT
    parts = [
        f'<text x="10" y="{top + 18}">{escape(row.title)}</text>',
        f'<text x="10" y="{top + 36}" fill="#666">must {row.must:g}, aim {row.aim:g}</text>',
        f'<rect x="{TEXT}" y="{top}" width="{PLOT}" height="{ROW}" fill="#f6f6f6"/>',
        f'<line x1="{TEXT}" x2="{end}" y1="{y(row.must)}" y2="{y(row.must)}" stroke="#c00"/>',
        f'<line x1="{TEXT}" x2="{end}" y1="{y(row.aim)}" y2="{y(row.aim)}" stroke="#080" stroke-dasharray="5 3"/>',
    ]
    for x, run in points:
        low, high = run.spread[name]
        parts.append(f'<line x1="{x}" x2="{x}" y1="{y(low)}" y2="{y(high)}" stroke="#bbb" stroke-width="5"/>')
    line = " ".join(f"{x},{y(run.ratios[name])}" for x, run in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#36c" stroke-width="1.5"/>')
    parts += [f'<circle cx="{x}" cy="{y(run.ratios[name])}" r="3" fill="#36c"/>' for x, run in points]
    parts.append(f'<text x="{end + 10}" y="{top + 28}" font-size="17" fill="{colour}">{result.ratio:.3f}</text>')
    return parts
