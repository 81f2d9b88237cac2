"""How findings say shares, amounts and quotations."""

from poolctl.units import format_count


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def plural(count: int, noun: str) -> str:
    """ "1 client", "1,204 clients", "2 processes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{format_count(count)} {noun}{ending}"


def quote(text: str, length: int = 50) -> str:
    """An error or statement on one line, cut at a word so that a summary stays short."""
    line = " ".join(text.split())
    if len(line) > length:
        line = f"{line[: length - 2].rsplit(' ', 1)[0].rstrip(' ,;:')}..."
    return f'"{line}"'
