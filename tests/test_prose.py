"""Plain English in what people read: docstrings, comments, messages, screens and documents.

The words below were found to need decoding. The list grows when a reader stumbles; it never shrinks for a sentence.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BANNED = re.compile(
    r"""\b(
        told | tell | tells | telling | anew | for\ want\ of | be\ it | knock\w* | (?:have|has|had)\ (?:seen\ )?enough
        | those\ that | what\ is\ seen | what\ was\ seen | nobody(?![`"]) | somebody | anybody | whoever | everybody
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Say who does it (the client, the backend, the instance, poolctl), and report, print or say instead of tell.

`nobody` in quotes is the name of a user of the system.
"""

KEYS = re.compile(r"waiting[_ ]told[_ ]by")
"""Public keys of evidence that keep their names, as reports print them."""

REFERENCES = re.compile(
    r"\b(postgres|pools|engines|diagnosis|sizing|evidence) reference\b|\breference/\w+\.md", re.IGNORECASE
)
"""Documents that are not in the repository."""

UNCLEANED: tuple[str, ...] = ()
"""Places that are still to be read. Take a line out once its words are plain; put none in."""

_VERBS = """
    accept acquire add adjust advance allow answer append apply arrange ask assemble assign assume attach average await
    balance become begin bind block bound break bring build calculate call cancel cap carry catch change check choose
    clamp classify clean clear close collect combine compare compile complete compute confirm connect consume continue
    control convert copy count cover create cut decide decode decrease deliver derive describe detect determine diagnose
    disable discard disconnect display divide do doubt drain draw drive drop encode end enforce ensure enter escape
    estimate evaluate examine exclude execute exit expand expect explain export extend extract fail fall fetch fill
    filter find finish fit flush fold follow forget format forward free freeze fulfil gather generate get give group
    grow guess halt hand handle hide hold hook identify ignore import include increase infer insert inspect install
    interpolate interpret interrupt invert invoke join judge keep kill know launch lay learn leave let lift limit link
    list listen load locate lock log look lower make map mark match measure merge migrate mix model move name narrow
    neutralize normalize note notice notify observe offer omit open order own pack pad pair parse pass pause perform
    pick place plan point poll pop post prefer prepare print probe process produce promise propose provide prune publish
    pull push put query quote raise rank read reap reassemble rebuild receive recommend reconnect record redact reduce
    refill refuse register reject release reload remember remove rename render reopen repeat replace replay reply report
    request require reserve reset resolve respond restart restore restrict resume retry return reuse rewind ring roll
    round run sample save say scale scan schedule score seal search select send separate serve set settle shift shorten
    show shrink shut signal simulate skip sleep smooth solve sort spell split spread start state stay step stop store
    stream strip submit subtract sum summarize suppress swap sweep switch take terminate test thaw throw tidy time touch
    trace track translate trim truncate try turn undo unite unwrap update use validate verify visit wait wake walk warm
    warn watch weigh widen wrap write yield
"""
VERBS = frozenset(_VERBS.split())
"""What a function's docstring may begin with. Add a verb that is missing; a noun is not one."""


def is_uncleaned(name: str) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in UNCLEANED)


PATTERNS = ("poolctl/**/*.py", "poolctl/**/*.sql", "*.md", "docs/*.md", "examples/**/*.toml", "examples/**/*.py")
FILES = sorted(
    name
    for pattern in PATTERNS
    for file in ROOT.glob(pattern)
    if not is_uncleaned(name := file.relative_to(ROOT).as_posix())
)


def texts_of(name: str) -> Iterator[tuple[int, str]]:
    """The docstrings, strings and comments of a Python file, or the lines of any other, each with its line number."""
    source = (ROOT / name).read_text(encoding="utf-8")
    if not name.endswith(".py"):
        yield from enumerate(source.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        # From Python 3.12 on the text of an f-string is a token of its own.
        if token.type in (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield from enumerate(token.string.splitlines(), token.start[0])


def sentences_of(name: str) -> Iterator[tuple[int, str]]:
    """Texts, each with the beginning of the next line, so that words apart by a line's end are found too."""
    lines = list(texts_of(name))
    for (number, line), (_, following) in zip(lines, [*lines[1:], (0, "")], strict=True):
        yield number, f"{line.strip()} {' '.join(following.split()[:2])}"


@pytest.mark.parametrize("name", FILES)
def test_words_that_need_decoding_are_not_used(name: str) -> None:
    wrong = [
        f"{name}:{number}: {match[0]!r} in: {line.strip()}"
        for number, line in sentences_of(name)
        for match in [BANNED.search(KEYS.sub("", line)) or REFERENCES.search(line)]
        if match
    ]

    assert wrong == []


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".py") and name.startswith("poolctl/")])
def test_the_docstring_of_a_function_begins_with_a_verb(name: str) -> None:
    wrong = []
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if any(ast.unparse(mark).split(".")[-1] in ("property", "cached_property") for mark in node.decorator_list):
            continue  # an attribute to its reader: a noun phrase says what it is
        said = ast.get_docstring(node)
        if said and said.split()[0].strip(".,:;").lower() not in VERBS:
            wrong.append(f"{name}:{node.lineno} {node.name}: {said.splitlines()[0]}")

    assert wrong == []
