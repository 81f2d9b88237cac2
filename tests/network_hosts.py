"""Hosts with addresses of their own on one machine: network namespaces behind a bridge, whose links can be cut."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

needs_network = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None,
    reason="network namespaces need root and Debian's package iproute2",
)

NETWORK = "10.77.0"

DELAY = """
import collections, select, socket, sys, time
ends = []
for name in sys.argv[1:3]:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    end.bind((name, 0))
    # The header in front of each frame has its state of checksum and segmentation, which a copy would otherwise lose.
    end.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
    ends.append(end)
late = collections.deque()
print("ready", flush=True)
while True:
    pause = max(0.0, late[0][0] - time.monotonic()) if late else None
    for end in select.select(ends, [], [], pause)[0]:
        frame, (_, _, kind, *_) = end.recvfrom(1 << 17)
        if kind != socket.PACKET_OUTGOING:
            late.append((time.monotonic() + float(sys.argv[3]), ends[end is ends[0]], frame))
    while late and late[0][0] <= time.monotonic():
        _, end, frame = late.popleft()
        end.send(frame)
"""
"""Passes frames on between two interfaces, each so many seconds later."""


def run_ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def wait_until(is_so: Callable[[], bool], what: str, within: float = 60.0) -> float:
    """Wait for a state, and return the seconds that it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within, f"not within {within:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


class NetworkHost:
    """One namespace with an address. Its processes end with it."""

    def __init__(self, network: "Network", name: str, number: int) -> None:
        self.address = f"{NETWORK}.{number}"
        self._namespace = f"{network.name}-{name}"
        self._port, self._switch = f"port{number}", network.switch
        self._folder = network.folder
        self.processes: list[subprocess.Popen[str]] = []
        run_ip("netns", "add", self._namespace)
        run_ip("-n", self._namespace, "link", "set", "lo", "up")
        peer = ("type", "veth", "peer", "name", "eth0", "netns", self._namespace)
        run_ip("-n", self._switch, "link", "add", self._port, *peer)
        run_ip("-n", self._switch, "link", "set", self._port, "master", "bridge", "up")
        run_ip("-n", self._namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        run_ip("-n", self._namespace, "link", "set", "eth0", "up")

    def start(
        self, *command: str, prefix: Sequence[str] = (), is_heard: bool = False, **environment: str
    ) -> "subprocess.Popen[str]":
        """Start a command of this Python on this host. ``is_heard``: by pipes; what others print goes to a file."""
        pipe = subprocess.PIPE if is_heard else None
        with (self._folder / f"{self._namespace}.log").open("ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._namespace, *prefix, sys.executable, *command],
                text=True,
                stdin=pipe,
                stdout=pipe or log,
                stderr=pipe or log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
                cwd=self._folder,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def count_processes(self, part: str) -> int:
        """Count the processes on this host whose command line contains ``part``."""
        found = subprocess.run(["ip", "netns", "pids", self._namespace], capture_output=True, text=True, check=True)
        lines = []
        for pid in found.stdout.split():
            with suppress(OSError):
                lines.append(Path(f"/proc/{pid}/cmdline").read_text())
        return sum(part in line for line in lines)

    def cut(self) -> None:
        """Cut the link without a word: neither end of a connection is told."""
        run_ip("-n", self._switch, "link", "set", self._port, "down")

    def restore(self) -> None:
        run_ip("-n", self._switch, "link", "set", self._port, "up")

    def lose_way_to(self, other: "NetworkHost") -> None:
        """Refuse this host's connections to ``other``."""
        run_ip("-n", self._namespace, "route", "add", "unreachable", other.address)

    def mute(self) -> None:
        """Drop what this host sends; it still receives, so its connections are half open."""
        shape = ("tbf", "rate", "8bit", "burst", "1", "limit", "1")
        words = ["ip", "netns", "exec", self._namespace, "tc", "qdisc", "replace", "dev", "eth0", "root", *shape]
        subprocess.run(words, check=True, capture_output=True)

    def delay(self, seconds: float) -> None:
        """Deliver each frame to and from this host so much later. Not by tc's netem: some kernels have none."""
        near, far = f"{self._port}n", f"{self._port}f"
        run_ip("-n", self._switch, "link", "add", near, "type", "veth", "peer", "name", far)
        run_ip("-n", self._switch, "link", "set", self._port, "nomaster")
        run_ip("-n", self._switch, "link", "set", far, "master", "bridge", "up")
        for port in (self._port, near):
            run_ip("-n", self._switch, "link", "set", port, "up", "promisc", "on")
        words = ["ip", "netns", "exec", self._switch, sys.executable, "-c", DELAY, self._port, near, str(seconds)]
        process = subprocess.Popen(words, text=True, start_new_session=True, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    def end(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        # Instances and a sandbox have sessions of their own.
        found = subprocess.run(["ip", "netns", "pids", self._namespace], capture_output=True, text=True, check=False)
        for pid in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run_ip("netns", "delete", self._namespace)


class Network:
    """A bridge and the hosts behind it."""

    def __init__(self, folder: Path) -> None:
        self.name = f"poolctl{os.getpid()}"
        self.switch = f"{self.name}-switch"
        self.folder = folder
        self._hosts: list[NetworkHost] = []
        run_ip("netns", "add", self.switch)
        run_ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        run_ip("-n", self.switch, "link", "set", "bridge", "up")

    def add(self, name: str) -> NetworkHost:
        host = NetworkHost(self, name, len(self._hosts) + 1)
        self._hosts.append(host)
        return host

    def end(self) -> None:
        for host in self._hosts:
            host.end()
        run_ip("netns", "delete", self.switch)
