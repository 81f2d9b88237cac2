"""Writes a report as one self-contained HTML page, for a post-mortem: readable on a phone, dark and light.

Decides the page's looks. It needs no script, nothing is fetched from anywhere, and every text is escaped. The JSON
that the report was made from is in the page as data, for programs.
"""

from collections.abc import Iterator
from html import escape

from poolctl.report.blocks import (
    NAMING,
    Block,
    ChartBlock,
    Code,
    Fact,
    Facts,
    FindingBlock,
    Note,
    Points,
    Repeat,
    Report,
    Section,
    Table,
    Verdict,
    headline_of,
    is_empty,
    is_number,
)
from poolctl.report.svg import write_svg
from poolctl.safe_text import neutralize

_TEXT_LIMIT = 1200
"""Characters of one text: a report's own limits are lower, so this only guards against one that was forgotten."""

_MOST_SIDE_BY_SIDE = 4
_SHORT, _LONG = 14, 40
"""Characters of a column's longest text: up to the first it is never broken, beyond the second it needs width."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --quiet: #59636e; --ground: #ffffff; --card: #f6f8fa;
  --rule: #d1d9e0; --critical: #cf222e; --warning: #9a6700; --info: #0969da; --good: #1a7f37; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --quiet: #9198a1; --ground: #0d1117; --card: #151b23;
  --rule: #3d444d; --critical: #ff7b72; --warning: #d29922; --info: #58a6ff; --good: #3fb950; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; max-width: 62rem; margin: 0 auto;
  padding: 1.2rem 1rem 3rem; background: var(--ground); color: var(--ink); overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; line-height: 1.35; margin: 0 0 0.8rem; border-left: 0.35rem solid var(--rule);
  padding-left: 0.8rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 0.3rem; }
p { margin: 0.5rem 0; }
.critical { --tone: var(--critical); } .warning { --tone: var(--warning); } .info { --tone: var(--info); }
.ok { --tone: var(--good); }
h1.critical, h1.warning, h1.info, h1.ok { border-color: var(--tone); }
.word { color: var(--tone, inherit); font-weight: 700; }
.quiet { color: var(--quiet); }
.caution { border-left: 0.25rem solid var(--warning); padding-left: 0.7rem; }
.finding { border: 1px solid var(--rule); border-left: 0.25rem solid var(--tone, var(--rule)); border-radius: 0.3rem;
  background: var(--card); padding: 0.4rem 0.9rem 0.7rem; margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.3rem 1rem; margin: 0.7rem 0; }
dt { font-weight: 600; } dd { margin: 0; min-width: 0; }
dd ol, dd ul { margin: 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: 0.5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 1rem 0.25rem 0; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; white-space: nowrap; } .number { text-align: right; }
td.number, td.short { white-space: nowrap; } td.text { min-width: 8rem; overflow-wrap: break-word; }
td.words { min-width: 14rem; }
.share { display: block; width: 6rem; height: 0.7rem; margin-top: 0.4rem; background: var(--rule); }
.share i { display: block; height: 100%; background: var(--info); } .share i.full { background: var(--critical); }
.facts dd span { margin-right: 1rem; white-space: nowrap; } .facts dd span.long { white-space: normal; }
.facts .note { color: var(--quiet); margin-right: 0; white-space: normal; }
code, pre { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 0.3rem; padding: 0.6rem 0.8rem;
  overflow-x: auto; white-space: pre-wrap; }
figure { margin: 1rem 0; overflow-x: auto; } svg { display: block; max-width: 100%; min-width: 34rem; height: auto; }
@media (max-width: 34rem) { dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dt { margin-top: 0.5rem; }
  th, td { padding-right: 0.7rem; } }
"""


def write_page(report: Report, document: str) -> str:
    """Return the page. ``document``: the JSON that the report was made from."""
    # "<" is all that could end the script element early; in JSON it stands only inside strings.
    data = document.replace("<", "\\u003c")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # An icon of nothing: a browser would ask the page's server for one.
            '<link rel="icon" href="data:,">',
            f"<title>poolctl: {_escape(headline_of(report))}</title>",
            f"<style>{_STYLE}</style></head><body>",
            *_Body().write(report),
            f'<script type="application/json" id="poolctl-data">{data}</script>',
            "</body></html>\n",
        ]
    )


class _Body:
    """The elements of a page's body, in the order of the blocks."""

    def __init__(self) -> None:
        self._charts = 0

    def write(self, report: Report, level: int = 2) -> Iterator[str]:
        """Yield the blocks as HTML. ``level``: of the headings of their sections."""
        for block in report:
            if not is_empty(block):
                yield from self._block(block, level)

    def _block(self, block: Block, level: int) -> Iterator[str]:
        match block:
            case Verdict():
                tone = _choose_tone(block.word, block.severity)
                yield f'<h1 class="{tone}">{_escape(headline_of((block,)))}</h1>'
            case Note(kind="caution"):
                yield f'<p class="caution">{_escape(block.text)}</p>'
            case Note():
                yield f'<p class="quiet">{_escape(block.text)}</p>'
            case FindingBlock():
                yield from _write_finding(block)
            case Points():
                yield _write_points(block)
            case Facts():
                yield _write_facts(block)
            case Table():
                yield from _write_table(block, level)
            case ChartBlock():
                self._charts += 1
                picture = write_svg([block.chart], name=f"chart{self._charts}", standalone=False)
                # A region that scrolls has to be reached by the keyboard.
                yield f'<figure tabindex="0">{picture}</figure>'
            case Code():
                title = _write_heading(block.title.rstrip(":"), level + 1)
                yield f"{title}<pre>{_escape_lines(block.text)}</pre>"
            case Repeat():
                yield f"<h{level}>Repeat with</h{level}><pre>{_escape_lines(block.command)}</pre>"
            case Section():
                yield _write_heading(block.title, level)
                yield from self.write(block.blocks, level + 1 if block.title else level)


def _write_finding(finding: FindingBlock) -> Iterator[str]:
    tone = _choose_tone(finding.word, finding.severity)
    yield f'<div class="finding {tone}">'
    if finding.summary:
        name = f"<strong>{_escape(finding.name)}</strong> " if finding.name else ""
        yield f'<p>{name}<span class="word">{_escape(finding.word)}</span> {_escape(finding.summary)}</p>'
    if finding.about:
        yield f'<p class="quiet">{_escape(finding.about)}</p>'
    for caution in finding.cautions:
        yield f'<p class="caution">{_escape(caution)}</p>'
    if not is_empty(finding.points):
        yield _write_points(finding.points)
    yield "</div>"


def _write_points(points: Points) -> str:
    rows = []
    for group in points.groups:
        items = [
            _escape(item.text) + (f"<br>last query: <code>{_escape(item.query)}</code>" if item.query else "")
            for item in group.items
        ]
        if len(items) > 1:
            kind = "ol" if group.is_ordered else "ul"
            items = [f"<{kind}>{''.join(f'<li>{item}</li>' for item in items)}</{kind}>"]
        if items:
            rows.append(f"<dt>{_escape(group.label)}</dt><dd>{items[0]}</dd>")
    return f"<dl>{''.join(rows)}</dl>"


def _write_facts(block: Facts) -> str:
    return f'<dl class="facts">{"".join(map(_write_fact, block.facts))}</dl>'


def _write_fact(fact: Fact) -> str:
    numbers = []
    for item in fact.items:
        words = f"{item.sign} {item.name} {item.value}".strip()
        kind = ' class="long"' if len(words) > 30 else ""
        numbers.append(f"<span{kind}>{_escape(words)}</span>")
    note = f'<span class="note">({_escape(fact.note)})</span>' if fact.note else ""
    return f"<dt>{_escape(fact.label)}</dt><dd>{' '.join(numbers)} {note}</dd>"


def _write_table(table: Table, level: int) -> Iterator[str]:
    """Yield the table in a box that scrolls by itself where it is wider than the screen."""
    yield _write_heading(table.title, level)
    if table.side_by_side and len(table.rows) <= _MOST_SIDE_BY_SIDE:
        yield _write_side_by_side(table)
        return
    words = table.words % len(table.header)
    order = list(range(len(table.header)))
    if table.header[words] in NAMING:
        # The name of a row stands first: on a phone the last column is out of sight.
        order.insert(0, order.pop(words))
    kinds = [_column_kind(table, at) for at in order]
    rows = [[(table.header[at], "th") for at in order], *([(row[at], "td") for at in order] for row in table.rows)]
    lines = [
        [f"<{tag}{_write_class(kind)}>{_escape(cell)}</{tag}>" for (cell, tag), kind in zip(row, kinds, strict=True)]
        for row in rows
    ]
    if table.bars:
        at = order.index(table.bars.at - 1) + 1
        for line, bar in zip(lines, ["<th></th>", *map(_draw_share, table.bars.shares)], strict=True):
            line.insert(at, bar)
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    yield f'<div class="wide" tabindex="0"><table>{body}</table></div>'
    if table.more:
        yield f'<p class="quiet">{_escape(table.more)}</p>'


def _write_side_by_side(table: Table) -> str:
    """Return the table with a column for each record: so a few records fit a phone."""
    names = "".join(f'<th class="number">{_escape(row[0])}</th>' for row in table.rows)
    lines = [f"<tr><th>{_escape(table.header[0])}</th>{names}</tr>"]
    for at, name in enumerate(table.header[1:], 1):
        cells = "".join(f'<td class="number">{_escape(row[at])}</td>' for row in table.rows)
        lines.append(f"<tr><th>{_escape(name)}</th>{cells}</tr>")
    return f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>'


def _column_kind(table: Table, at: int) -> str:
    """Return the class of a column: numbers, words of any length, or short texts."""
    cells = [row[at] for row in table.rows]
    longest = max(map(len, cells))
    if at != table.words % len(table.header) and all(map(is_number, cells)):
        return "number"
    return "short" if longest <= _SHORT else "text" if longest <= _LONG else "words"


def _draw_share(share: float) -> str:
    full = ' class="full"' if share >= 1 else ""
    width = f"{min(share, 1) * 100:.0f}%"
    return f'<td><span class="share" aria-hidden="true"><i{full} style="width: {width}"></i></span></td>'


def _write_heading(title: str, level: int) -> str:
    return f"<h{level}>{_escape(title)}</h{level}>" if title else ""


def _choose_tone(word: str, severity: str | None) -> str:
    """Return the class that colors a verdict or a finding."""
    return "ok" if word == "OK" else "" if word == "NO VERDICT" else severity or ""


def _write_class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _escape_lines(text: str) -> str:
    """Escape text that keeps its lines and its indentation."""
    return escape("\n".join(_keep_indent(line.expandtabs(4)) for line in text.splitlines()))


def _keep_indent(line: str) -> str:
    bare = line.lstrip(" ")
    return " " * (len(line) - len(bare)) + _write_out_controls(bare)


def _write_out_controls(line: str) -> str:
    """Return a line of code with control characters written out, and spaces as they are."""
    return "".join(c if c.isprintable() else neutralize(c, None) for c in line)


def _escape(words: str) -> str:
    """Escape text that stands on one line, harmless also where its report forgot to neutralize it."""
    return escape(neutralize(words, _TEXT_LIMIT))
