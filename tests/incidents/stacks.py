"""Clients of other languages for the generator of incidents: built once, into a folder of the machine's temporary ones.

Each speaks the same words (BEHAVIOR key=value ...), prints "ready", and writes the figures of its pool in its library's
own form. A stack that cannot be built here is left out, with the reason.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CLIENTS = Path(__file__).with_name("clients")
JARS = tuple(
    Path("/usr/share/java") / name for name in ("HikariCP.jar", "postgresql.jar", "slf4j-api.jar", "slf4j-nop.jar")
)
GO_PACKAGES = Path("/usr/share/gocode")
"""Where Debian's golang-github-lib-pq-dev puts lib/pq."""


class CannotBuild(Exception):
    """Why a stack cannot run on this machine."""


@dataclass(frozen=True)
class Stack:
    """A language with its library. ``figures``: the form that its figures have for ``--pool-stats``."""

    name: str
    command: tuple[str, ...]


def build_folder() -> Path:
    """Return the folder that the clients are built into; of this user and these sources, and kept for the next run."""
    sources = b"".join(path.read_bytes() for path in sorted(CLIENTS.iterdir()) if path.is_file())
    of = hashlib.sha256(sources).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"poolctl-incident-clients-{os.getuid()}-{of}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@cache
def build_stack(name: str) -> Stack:
    """Return the stack of that name, built where needed. Raises CannotBuild."""
    # Generators that run side by side share the folder.
    with (build_folder() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        build = {"node-postgres": _node, "hikaricp": _java, "database/sql": _go, "psycopg": _python, "rails": _ruby}
        return build[name]()


STACKS = ("psycopg", "node-postgres", "hikaricp", "database/sql", "rails")


def _python() -> Stack:
    return Stack("psycopg", (sys.executable, str(CLIENTS / "client.py")))


def _node() -> Stack:
    folder = build_folder() / "node"
    folder.mkdir(exist_ok=True)
    if not (folder / "node_modules" / "pg").exists():
        _run(["npm", "install", "--silent", "--no-audit", "--no-fund", "pg@8"], folder)
    shutil.copy(CLIENTS / "client.js", folder)
    return Stack("node-postgres", (_need("node"), str(folder / "client.js")))


def _java() -> Stack:
    missing = [jar.name for jar in JARS if not jar.exists()]
    if missing:
        raise CannotBuild(f"{', '.join(missing)} missing: apt-get install libhikaricp-java libpostgresql-jdbc-java")
    folder = build_folder() / "java"
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join(map(str, (*JARS, folder)))
    if not (folder / "Client.class").exists():
        _run([_need("javac"), "-cp", path, "-d", str(folder), str(CLIENTS / "Client.java")], folder)
    # One small heap and one collector thread: several of them share two cores with the server.
    return Stack("hikaricp", (_need("java"), "-Xmx64m", "-XX:+UseSerialGC", "-cp", path, "Client"))


def _go() -> Stack:
    if not (GO_PACKAGES / "src/github.com/lib/pq").exists():
        raise CannotBuild("lib/pq missing: apt-get install golang-go golang-github-lib-pq-dev")
    program = build_folder() / "go-client"
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_PACKAGES)}
    if not program.exists():
        _run([_need("go"), "build", "-o", str(program), str(CLIENTS / "client.go")], build_folder(), environment)
    return Stack("database/sql", (str(program),))


def _ruby() -> Stack:
    command = (_need("ruby"), str(CLIENTS / "client.rb"))
    _run([command[0], "-e", "require 'active_record'; require 'pg'"], build_folder())
    return Stack("rails", command)


def _need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise CannotBuild(f"{program} is not installed")
    return found


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
