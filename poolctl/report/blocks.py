"""A report as data: the kinds of block that it is made of, in the order a reader meets them.

Decides what a block holds. Leaves columns, colors and escaping to the writers of the formats (terminal, markdown,
html), and the words to the builders of the reports (simulation, inspection, ...). A text in a block is on one line
and harmless in a terminal: its builder has neutralized each foreign name in it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from poolctl.diagnose.finding import Severity
from poolctl.report.charts import BarChart, HeatMap, TimeChart

NAMING = ("setting", "term", "figure", "moment", "who", "what")
"""Above the column that names a row."""
_BARE = ("value", "why", "because", "source", "")
"""Above columns whose cells explain themselves."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The first sentence of a report.

    ``word`` says how bad it is, without color ("CRITICAL", "OK"); "" for a headline that is no diagnosis.
    ``severity`` None: nothing is claimed. ``code``: of the finding that it is about, "" without one.
    """

    word: str
    severity: Severity | None
    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence. A caution is what a reader has to know before believing the numbers; an aside explains a table."""

    text: str
    kind: Literal["text", "caution", "aside"] = "text"


@dataclass(frozen=True, slots=True)
class Item:
    """One point of a list. ``query``: the last statement of the holder that it names, "" where it is not known."""

    text: str
    query: str = ""


@dataclass(frozen=True, slots=True)
class Labeled:
    """Items under one label: "Who", "Do", "Why". ``is_ordered``: in the order to be done."""

    label: str
    items: tuple[Item, ...]
    is_ordered: bool = False


@dataclass(frozen=True, slots=True)
class Points:
    """Labels, each with its items. ``margin``: columns that the labels take where text stands beside them."""

    groups: tuple[Labeled, ...]
    margin: int = 8


@dataclass(frozen=True, slots=True)
class FindingBlock:
    """A finding: what it is, who causes it, what to do, why.

    ``word`` and ``summary`` "": the verdict above has said them. ``name``: of the run that it is about, where a report
    is about several. ``cautions``: what to know before believing it.
    """

    word: str
    severity: Severity | None
    summary: str
    about: str
    points: Points
    name: str = ""
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Amount:
    """One number. ``sign`` joins it to the one before: "=" or "+" where they add up, "" otherwise."""

    name: str
    value: str
    sign: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """A row of numbers: what it is about, and in ``note`` what they include."""

    label: str
    items: tuple[Amount, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """A table for a screen without room for columns: each record is its name, and the rest in words.

    ``head``: what stands above, "" for the table's title. ``is_inline``: the words follow the name on its line.
    """

    head: str
    records: tuple[tuple[str, str], ...]
    is_inline: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar in each row of a table, before the column ``at``: the share of 1 that is used; 1 is full."""

    at: int
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; the column ``words`` holds text of any length, and stands last where columns have fixed widths.

    ``more``: how much was left out, "" for nothing. ``narrower``: the same with fewer columns or words, tried in turn.
    ``listing`` None: made from the rows, named by their last column. ``side_by_side``: a record may become a column.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: str = ""
    words: int = -1
    narrower: "tuple[Table, ...]" = ()
    listing: Listing | None = None
    bars: Bars | None = None
    side_by_side: bool = False


@dataclass(frozen=True, slots=True)
class ChartBlock:
    chart: TimeChart | BarChart | HeatMap


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be copied: never wrapped, cut or indented. ``is_short``: a terminal shows its lines as one sentence."""

    title: str
    text: str
    language: str = ""
    is_short: bool = False


@dataclass(frozen=True, slots=True)
class Repeat:
    """The command that does the same again."""

    command: str


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks that belong together. ``is_detail``: for files, which have room; a terminal leaves it out."""

    title: str
    blocks: "tuple[Block, ...]"
    is_detail: bool = False


Block = Verdict | Note | FindingBlock | Points | Facts | Table | ChartBlock | Code | Repeat | Section
Report = tuple[Block, ...]


def headline_of(report: Report) -> str:
    """Return the first sentence of a report as text: "CRITICAL: all 97 slots are taken"."""
    first = next(block for block in report if isinstance(block, Verdict))
    return f"{first.word}: {first.sentence}" if first.word else first.sentence


def name_rows(title: str, header: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Table:
    """Return a table whose rows have a name that is not their last cell. A sign goes with the number behind it."""
    at = next(at for at, name in enumerate(header) if name in NAMING)
    records = []
    for row in rows:
        words: list[str] = []
        sign = ""
        for number, (name, cell) in enumerate(zip(header, row, strict=True)):
            if number == at or not cell:
                continue
            if name == "" and number < at:
                sign = f"{cell} "
                continue
            words.append(sign + (cell if name in _BARE else f"{name} {cell}"))
            sign = ""
        records.append((row[at], ", ".join(words)))
    return Table(title, header, rows, listing=Listing("", tuple(records)))


def collect_charts(report: Iterable[Block]) -> Iterator[TimeChart | BarChart | HeatMap]:
    """Yield every chart of a report, those within sections included."""
    for block in report:
        if isinstance(block, ChartBlock):
            yield block.chart
        elif isinstance(block, Section):
            yield from collect_charts(block.blocks)


def is_empty(block: Block) -> bool:
    """Return True if a writer has nothing to show for the block."""
    if isinstance(block, Section):
        return all(is_empty(inner) for inner in block.blocks)
    if isinstance(block, Table):
        return not block.rows
    if isinstance(block, Points):
        return not any(group.items for group in block.groups)
    if isinstance(block, Facts):
        return not block.facts
    if isinstance(block, FindingBlock):
        return not block.summary and is_empty(block.points)
    if isinstance(block, Repeat):
        return not block.command
    return isinstance(block, Note) and not block.text


def is_number(text: str) -> bool:
    """Return True for a number, with its unit or without, and for the sign of an unknown one."""
    return text.removeprefix("-")[:1].isdigit() or text in ("", "-")
