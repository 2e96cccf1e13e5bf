"""The pictures of the explanation, drawn: ``python docs/hooks/pictures.py`` writes docs/explanation/*.svg.

Their numbers are those of the program: mixing, split and features are computed by it. Colours are CSS variables, light
or dark by what the reader's system prefers; docs/assets/site.css sets them by the palette chosen on the site.
"""

from __future__ import annotations

import math
import sys
from html import escape
from pathlib import Path

import numpy as np
import pyarrow as pa

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))  # when it is run by its path

from mlaas_spark.layout import FeatureLayout  # noqa: E402 - after the path
from mlaas_spark.mixing import SPLITS, chunk_counts, shuffle_order, split_of  # noqa: E402
from mlaas_spark.transform import FeatureTransform  # noqa: E402

WIDTH = 460  # readable on a phone, where 460 units become some 360 pixels
STYLE = """\
svg.picture{--ink:#1d2433;--faint:#5a6475;--paper:#fff;--cell:#f2f4f8;--a:#2f6fde;--b:#c2410c;--c:#0f7b4f;--on:#fff}
@media (prefers-color-scheme:dark){svg.picture{--ink:#e8ebf2;--faint:#a9b2c3;--paper:#1c2030;--cell:#2a3042;\
--a:#7fb0ff;--b:#ffa36b;--c:#5fd6a0;--on:#10131c}}
.picture text{font:13px ui-sans-serif,system-ui,sans-serif;fill:var(--ink)}.picture .faint{fill:var(--faint)}
.picture .code{font-family:ui-monospace,monospace;font-size:12px}.picture .on{fill:var(--on)}
.picture .bold{font-weight:600}.picture .line{stroke:var(--faint);stroke-width:1.5;fill:none}"""

# one event of the pictures, and the ranges of its branches
EVENT: dict[str, float | list[float]] = {"MET_pt": 41.0, "Jet_pt": [88.0, 52.0, 31.0], "Muon_pt": [35.0]}
RANGES = {"MET_pt": (0.0, 100.0), "Jet_pt": (10.0, 110.0), "Muon_pt": (5.0, 105.0)}
DIMS = {"Jet_pt": 4, "Muon_pt": 2}
LISTS: tuple[list[float], ...] = ([88.0, 52.0, 31.0], [], [95.0, 70.0, 44.0, 33.0, 21.0])
FILES = (24, 12, 4)
CHUNK = 10
TERMS = (0.1, 0.2, 0.3)


class Drawing:
    """An SVG in the making: marks, and how far down they reach."""

    def __init__(self) -> None:
        self.marks: list[str] = []
        self.bottom = 0.0

    def text(self, x: float, y: float, words: str, of: str = "", anchor: str = "start") -> None:
        """Words with their baseline at y."""
        self.bottom = max(self.bottom, y + 4)
        mark = f'<text x="{x:g}" y="{y:g}" class="{of}" text-anchor="{anchor}">{escape(words)}</text>'
        self.marks.append(mark)

    def box(self, x: float, y: float, width: float, height: float, fill: str = "cell", more: str = "") -> None:
        """A rectangle; ``fill`` names a colour."""
        self.bottom = max(self.bottom, y + height)
        paint = "none" if fill == "none" else f"var(--{fill})"
        self.marks.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" fill="{paint}"{more}/>'
        )

    def arrow(self, x: float, y: float, length: float = 26) -> None:
        """Downwards."""
        tip = y + length
        self.bottom = max(self.bottom, tip)
        self.marks.append(
            f'<path class="line" d="M{x:g} {y:g}V{tip:g}M{x - 4:g} {tip - 5:g}L{x:g} {tip:g}L{x + 4:g} {tip - 5:g}"/>'
        )

    def cell(self, x: float, y: float, size: tuple[float, float], words: str, fill: str = "cell") -> None:
        """A box with words in its middle."""
        self.box(x, y, *size, fill)
        of = "code" if fill == "cell" else "code on"
        self.text(x + size[0] / 2, y + size[1] / 2 + 4, words, of, "middle")

    def svg(self) -> str:
        """The whole picture."""
        height = math.ceil(self.bottom + 12)
        frame = f'<rect width="{WIDTH}" height="{height}" rx="6" fill="var(--paper)"/>'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 {WIDTH} {height}">'
        return "\n".join([head, f"<style>{STYLE}</style>", frame, *self.marks, "</svg>\n"])


def features(event: dict[str, float | list[float]]) -> tuple[list[float], list[int]]:
    """Row of the matrix and of the mask of one event, by the program's own transform, minmax."""
    layout = FeatureLayout.of([name for name, value in event.items() if not isinstance(value, list)], DIMS)
    low, high = zip(*(RANGES[name] for name in layout.branches), strict=True)
    transform = FeatureTransform(
        layout,
        tuple(name in DIMS for name in layout.branches),
        low,
        tuple(1 / (above - below) for below, above in zip(low, high, strict=True)),
    )
    batch = pa.record_batch(
        [
            pa.array([value], pa.list_(pa.float32()) if isinstance(value, list) else pa.float32())
            for value in event.values()
        ],
        list(event),
    )
    made = transform.matrix(batch)
    return [float(value) for value in made.matrix[0]], [int(value) for value in made.mask[0]]


def life() -> str:
    """An event from its file to a batch."""
    drawing = Drawing()
    colours = {"MET_pt": "a", "Jet_pt": "b", "Muon_pt": "c"}
    drawing.text(16, 26, "1  In the file: branches, flat and jagged", "bold")
    for row, (name, value) in enumerate(EVENT.items()):
        drawing.cell(16, 36 + 26 * row, (84, 22), name, colours[name])
        shown = f"[{', '.join(f'{item:g}' for item in value)}]" if isinstance(value, list) else f"{value:g}"
        drawing.text(112, 52 + 26 * row, shown, "code")
    drawing.arrow(34, 118)
    drawing.text(52, 136, "executors read entry ranges, events that pass", "faint")

    drawing.text(16, 170, "2  Specs of all events: range and dim of each branch", "bold")
    for row, name in enumerate(EVENT):
        low, high = RANGES[name]
        drawing.cell(16, 180 + 26 * row, (84, 22), name, colours[name])
        dim = f", up to {DIMS[name]} values" if name in DIMS else ""
        drawing.text(112, 196 + 26 * row, f"{low:g} to {high:g}{dim}", "code")
    width = 1 + sum(DIMS.values())
    drawing.text(16, 274, f"W = 1 + {' + '.join(map(str, DIMS.values()))} = {width} columns", "code")
    drawing.arrow(34, 284)
    drawing.text(52, 302, "events of all files mixed, branches as they are", "faint")

    drawing.text(16, 336, "3  In a chunk, among events of other files", "bold")
    for row, words in enumerate(
        ("background_1.root, entry 40", "signal_0.root, entry 17: this event", "signal_1.root, entry 3")
    ):
        drawing.box(16, 346 + 26 * row, 300, 22)
        drawing.text(26, 362 + 26 * row, words, "code bold" if row == 1 else "code faint")
    drawing.arrow(34, 428)
    drawing.text(52, 446, "while streaming: normalise, pad, mask", "faint")

    matrix, mask = features(EVENT)
    drawing.text(16, 480, f"4  A row of a batch, float32 (256, {width})", "bold")
    columns = ["MET_pt", *(name for name, dim in DIMS.items() for _ in range(dim))]
    for index, (name, value, real) in enumerate(zip(columns, matrix, mask, strict=True)):
        x = 70 + 52 * index
        drawing.cell(x, 490, (48, 24), f"{value:.2f}", colours[name] if real else "cell")
        drawing.cell(x, 520, (48, 24), str(real))
    drawing.text(16, 506, "matrix", "faint")
    drawing.text(16, 536, "mask", "faint")
    return drawing.svg()


def padding() -> str:
    """Lists of unlike lengths as rows of equal length, and their mask."""
    drawing = Drawing()
    dim = DIMS["Jet_pt"]
    drawing.text(16, 26, f"Jet_pt of three events, dim capped at {dim}", "bold")
    for row, values in enumerate(LISTS):
        for index, value in enumerate(values):
            drawing.cell(16 + 50 * index, 38 + 32 * row, (46, 26), f"{value:g}", "b" if index < dim else "cell")
        if not values:
            drawing.text(16, 55 + 32 * row, "no jet", "faint")
        if len(values) > dim:
            drawing.text(16 + 50 * len(values) + 4, 55 + 32 * row, "cut, and counted", "faint")
    drawing.arrow(34, 140)
    low, high = RANGES["Jet_pt"]
    drawing.text(52, 158, f"(x - {low:g}) / ({high:g} - {low:g}), then 0 for what is not there", "faint")
    for row, values in enumerate(LISTS):
        for index in range(dim):
            real = index < len(values)
            shown = f"{(values[index] - low) / (high - low):.2f}" if real else "0"
            drawing.cell(16 + 50 * index, 202 + 32 * row, (46, 26), shown, "b" if real else "cell")
            drawing.cell(250 + 50 * index, 202 + 32 * row, (46, 26), str(int(real)), "b" if real else "cell")
    drawing.text(16, 194, "matrix", "bold")
    drawing.text(250, 194, "mask", "bold")
    return drawing.svg()


def mixed(seed: int = 1) -> list[list[tuple[int, int]]]:
    """(file, split) of each event of each chunk, in order, of three small files."""
    counts = chunk_counts(FILES, CHUNK)
    below = np.zeros(len(FILES), np.int64)
    chunks = []
    for of_chunk in counts:
        files = np.repeat(np.arange(len(FILES)), of_chunk)
        entries = np.concatenate(
            [np.arange(first, first + count) for first, count in zip(below, of_chunk, strict=True)]
        )
        below += of_chunk
        order = shuffle_order(files, entries, seed)
        splits = split_of([files, entries], (0.64, 0.16, 0.2))
        chunks.append([(int(files[place]), int(splits[place])) for place in order])
    return chunks


def mixing() -> str:
    """Files dealt to chunks in proportion, and the split of each event."""
    drawing = Drawing()
    colours = "abc"
    drawing.text(16, 26, f"Three files of {FILES[0]}, {FILES[1]} and {FILES[2]} events", "bold")
    for file, events in enumerate(FILES):
        for index in range(events):
            drawing.box(16 + 18 * index, 38 + 22 * file, 15, 16, colours[file])
    drawing.arrow(34, 110)
    drawing.text(52, 128, f"chunks of {CHUNK}: of each file its share, to within one event", "faint")
    for number, chunk in enumerate(mixed()):
        y = 148 + 36 * number
        drawing.text(16, y + 17, f"chunk {number}", "code")
        for index, (file, split) in enumerate(chunk):
            x = 80 + 30 * index
            drawing.box(x, y, 25, 25, colours[file])
            drawing.text(x + 12.5, y + 17, "" if split == 0 else SPLITS[split][0], "code on bold", "middle")
    drawing.text(16, 148 + 36 * 4 + 14, "v validation, t test, the rest training: by hash of the event", "faint")
    return drawing.svg()


def exactness() -> str:
    """The same numbers added by unlike tasks: as floats, and as integers."""
    drawing = Drawing()
    first, second, third = TERMS
    drawing.text(16, 26, "Three values, added by tasks that got unlike shares", "bold")
    rows = (
        ("as float64", f"({first} + {second}) + {third}", repr((first + second) + third)),
        ("", f"{first} + ({second} + {third})", repr(first + (second + third))),
    )
    whole = [int(math.ldexp(term, 55)) for term in TERMS]
    assert [math.ldexp(number, -55) for number in whole] == list(TERMS)  # noqa: S101 - nothing of them is lost
    left, right = (whole[0] + whole[1]) + whole[2], whole[0] + (whole[1] + whole[2])
    for row, (label, terms, total) in enumerate(rows):
        drawing.text(16, 54 + 30 * row, label, "faint")
        drawing.text(110, 54 + 30 * row, terms, "code")
        drawing.cell(258, 38 + 30 * row, (186, 24), total, "b")
    drawing.text(16, 130, "as integers, in units of 2⁻⁵⁵", "faint")
    for row, summed in enumerate((left, right)):
        drawing.text(110, 158 + 30 * row, ("(a + b) + c", "a + (b + c)")[row], "code")
        drawing.cell(258, 142 + 30 * row, (186, 24), f"{summed:,}", "c")
    drawing.text(16, 218, "Integers have no rounding: every order gives the same sum.", "")
    return drawing.svg()


PICTURES = {"event": life, "padding": padding, "mixing": mixing, "exactness": exactness}


def main() -> None:
    """Write all pictures."""
    folder = REPOSITORY / "docs" / "explanation"
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
