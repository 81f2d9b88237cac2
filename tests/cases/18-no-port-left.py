"""In a network namespace of its own with two local ports, both in use: what a client without a free port sees. Runs the
command given, which is to connect to 127.0.0.1 port 6000. Needs root (unshare)."""

import ctypes
import fcntl
import socket
import struct
import subprocess
import sys
from pathlib import Path

ctypes.CDLL(None).unshare(0x40000000)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))  # lo up
Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("50000 50001")
server = socket.create_server(("127.0.0.1", 6000))
held = [(socket.create_connection(("127.0.0.1", 6000)), server.accept()) for _ in range(2)]
sys.exit(subprocess.run(sys.argv[1:]).returncode)
