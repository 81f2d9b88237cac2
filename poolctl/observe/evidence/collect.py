"""The shell script that collects evidence where poolctl cannot run.

Decides only where it is put: what it asks stands in collect.sh.
"""

from pathlib import Path

from poolctl.errors import CannotDo

NAME = "poolctl-collect.sh"
SECTION = "== poolctl evidence: "
"""How each part of its output begins."""


def write_script(folder: Path) -> Path:
    """Write the script into ``folder``, which is made if it is missing. Return its place. Raises CannotDo."""
    place = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place.write_bytes(Path(__file__).with_name("collect.sh").read_bytes())
        place.chmod(0o755)
    except OSError as error:
        raise CannotDo(f"cannot write {place}: {error.strerror or error}") from error
    return place
