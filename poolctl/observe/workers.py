"""The processes of an application on this machine, their threads, and how many connections each holds.

A pool serves the threads of one process, and a server bears processes times pools; both are counted here rather than
guessed. Decides which software runs an application, by titles, scripts and programs, and how its options are read.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from poolctl.errors import BadInput
from poolctl.observe.sockets import ESTABLISHED, list_sockets, read_tcp_sockets, read_unix_sockets
from poolctl.safe_text import redact_command

UNKNOWN = "unknown"
_PROGRAMS = (
    "gunicorn",
    "uvicorn",
    "hypercorn",
    "granian",
    "daphne",
    "uwsgi",
    "celery",
    "dramatiq",
    "puma",
    "unicorn",
    "sidekiq",
    "php-fpm",
)
"""Recognized by the name of the program or script, or by the title that a process gives itself."""
_RUNTIMES = {"java": "java", "node": "node", "beam.smp": "beam", "dotnet": "dotnet", "ruby": "ruby", "python": "python"}
_OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "gunicorn": {"workers": ("-w", "--workers"), "threads": ("--threads",)},
    "uvicorn": {"workers": ("--workers",)},
    "hypercorn": {"workers": ("-w", "--workers")},
    "granian": {"workers": ("--workers",), "threads": ("--blocking-threads",)},
    "puma": {"workers": ("-w", "--workers"), "threads": ("-t", "--threads")},
    "uwsgi": {"workers": ("-p", "--processes", "--workers"), "threads": ("--threads",)},
    "celery": {"workers": ("-c", "--concurrency")},
    "dramatiq": {"workers": ("-p", "--processes"), "threads": ("-t", "--threads")},
    "sidekiq": {"threads": ("-c", "--concurrency")},
}
_HELPER = "multiprocessing.resource_tracker"
"""Python's own process, beside the ones that a program spawns."""
_GO_NOTE = b"Go\x00\x00"
_START_OF_PROGRAM = 32768
"""Bytes in which Go's own tool looks for the build id."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """One process. ``children``: its direct ones. ``connections``: to the given ports."""

    pid: int
    parent: int | None
    command: str
    threads: int
    children: int = 0
    connections: int = 0
    status: str = ""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """An application's processes: the named one, then all below it.

    ``configured``: workers and threads as its command line gives them.
    """

    kind: str
    processes: tuple[WorkerProcess, ...]
    configured: Mapping[str, int] = field(default_factory=dict)

    @property
    def root(self) -> WorkerProcess:
        return self.processes[0]

    @property
    def workers(self) -> tuple[WorkerProcess, ...]:
        """The processes that do the work: the ones that hold connections, and their siblings of the same program, which
        may not have needed one yet. Where none holds any, the processes without children."""
        able = [process for process in self.processes if _HELPER not in process.command]
        like = {_identify_group(process) for process in able if process.connections}
        if like:
            return tuple(process for process in able if _identify_group(process) in like)
        return tuple(process for process in able if not process.children) or self.processes[:1]


def _identify_group(process: WorkerProcess) -> tuple[int | None, str]:
    return process.parent, process.command.partition(" ")[0]


def find_workers(who: int | str, *, ports: Collection[int] = ()) -> WorkerView:
    """Find the application whose topmost process has this pid or name; ``ports``: of the server and its poolers.

    Raises BadInput when there is no such process, or when several applications have the name.
    """
    root = _find_process(who) if isinstance(who, int) else _find_root(who)
    ends = _find_client_ends(ports)
    with suppress(psutil.Error):
        family = [root, *root.children(recursive=True)]
        parents = [_find_parent(process) for process in family]
        described = [
            _describe(process, parent, parents.count(process.pid), ends)
            for process, parent in zip(family, parents, strict=True)
        ]
        arguments, title = _read_arguments(root)
        kind = identify_software(arguments, title, _read_program_start(root))
        processes = tuple(one for one in described if one is not None)
        if processes and processes[0].pid == root.pid:
            return WorkerView(kind, processes, read_configured(kind, arguments))
    raise _make_error(who)


def identify_software(arguments: Sequence[str], name: str = "", program: bytes = b"") -> str:
    """Identify the server software or runtime of a process.

    By the title it gives itself, the script that an interpreter runs, or the program's name; Go by the note in the
    program's first bytes.
    """
    words = [argument for argument in arguments if argument]
    first = _take_base_name(words[0]) if words else name
    for known in _PROGRAMS:
        if re.match(rf"{known}\b", first) or name == known:
            return known
    if _match_interpreter(first) or _match_interpreter(name):
        for script in _list_scripts(words[1:]):
            if script in _PROGRAMS:
                return script
    for program_name in (first, name):
        runtime = _RUNTIMES.get(program_name) or _match_interpreter(program_name)
        if runtime:
            return runtime
    return "go" if _GO_NOTE in program else UNKNOWN


def read_configured(kind: str, arguments: Sequence[str]) -> dict[str, int]:
    """Read workers and threads from the options of ``kind``; of a range such as puma's "-t 0:5" the greater."""
    found: dict[str, int] = {}
    for what, options in _OPTIONS.get(kind, {}).items():
        for at, argument in enumerate(arguments):
            name, _, value = argument.partition("=")
            if name in options:
                value = value or (arguments[at + 1] if at + 1 < len(arguments) else "")
            else:
                short = next((one for one in options if len(one) == 2 and argument.startswith(one)), None)
                value = argument[2:] if short is not None else ""
            if re.fullmatch(r"\d{1,6}(:\d{1,6})?", value):
                found[what] = max(int(part) for part in value.split(":"))
    return found


def _find_process(pid: int) -> psutil.Process:
    try:
        return psutil.Process(pid)
    except (psutil.Error, ValueError):
        raise _make_error(pid) from None


def _find_root(name: str) -> psutil.Process:
    matching = {process.pid: process for process in psutil.process_iter() if _is_named(process, name)}
    roots = [process for process in matching.values() if _find_parent(process) not in matching]
    if not roots:
        raise _make_error(name)
    if len(roots) > 1:
        pids = ", ".join(str(process.pid) for process in roots[:10])
        raise BadInput(f"{len(roots)} applications are named {name!r}", hint=f"name one by its process id: {pids}")
    return roots[0]


def _is_named(process: psutil.Process, name: str) -> bool:
    with suppress(psutil.Error):
        if process.pid == psutil.Process().pid:
            return False
        arguments, own = _read_arguments(process)
        return name in (
            own,
            identify_software(arguments, own),
            _take_base_name(arguments[0]) if arguments else "",
            *_list_scripts(arguments[1:]),
        )
    return False


def _read_arguments(process: psutil.Process) -> tuple[list[str], str]:
    with suppress(psutil.AccessDenied):
        return process.cmdline(), process.name()
    return [], process.name()


def _list_scripts(words: Sequence[str]) -> list[str]:
    """List what an interpreter may run: the names of its first arguments."""
    return [_take_base_name(word).removesuffix(".py") for word in words[:4] if not word.startswith("-")]


def _take_base_name(path: str) -> str:
    return path.rpartition("/")[2]


def _match_interpreter(name: str) -> str | None:
    match = re.fullmatch(r"(python|ruby|java|node)[\d.]*", name)
    return match[1] if match else None


def _find_parent(process: psutil.Process) -> int | None:
    with suppress(psutil.Error):
        return process.ppid() or None
    return None


def _describe(
    process: psutil.Process, parent: int | None, children: int, ends: Collection[int]
) -> WorkerProcess | None:
    with suppress(psutil.Error), process.oneshot():
        arguments, name = _read_arguments(process)
        return WorkerProcess(
            pid=process.pid,
            parent=parent,
            command=redact_command(arguments) or name,
            threads=process.num_threads(),
            children=children,
            connections=_count(process, ends),
            status=process.status(),
        )
    return None


def _find_client_ends(ports: Collection[int]) -> Collection[int]:
    """Find the client's ends of connections to ``ports``, by their inodes; off Linux the ports themselves."""
    if not psutil.LINUX:
        return ports
    ends = {
        one.inode for one in read_tcp_sockets() if one.state == ESTABLISHED and one.remote.port in ports and one.inode
    }
    paths = tuple(f"/.s.PGSQL.{port}" for port in ports)
    if paths:
        ends |= {one.peer for one in read_unix_sockets().values() if one.peer and one.path.endswith(paths)}
    return ends


def _count(process: psutil.Process, ends: Collection[int]) -> int:
    if psutil.LINUX:
        return sum(inode in ends for inode in list_sockets(process.pid))
    with suppress(psutil.Error):
        return sum(bool(one.raddr) and one.raddr.port in ends for one in process.net_connections("tcp"))
    return 0


def _read_program_start(process: psutil.Process) -> bytes:
    with suppress(psutil.Error, OSError), open(process.exe(), "rb") as program:  # noqa: PTH123 - "" is no path
        return program.read(_START_OF_PROGRAM)
    return b""


def _make_error(who: int | str) -> BadInput:
    what = f"with the id {who}" if isinstance(who, int) else f"named {who!r}"
    return BadInput(f"there is no process {what} on this machine", hint="`ps -ef` lists them")
