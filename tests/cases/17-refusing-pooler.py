"""Says what hosted poolers say to a new client, one text for each port from PORT on. PORT; ends with Ctrl-C."""

import socketserver
import struct
import sys
import threading

TEXTS = (
    (
        "XX000",
        "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size",
        "",
    ),
    ("XX000", "Max client connections reached", ""),
    ("XX000", "(EMAXCONNSESSION) max clients reached in session mode - max clients are limited to pool_size: 15", ""),
    ("XX000", "(ECHECKOUTTIMEOUT) unable to check out connection from the pool after 5000ms in Transaction mode", ""),
    (
        "53300",
        "remaining connection slots are reserved for non-replication superuser and rds_superuser connections",
        "InitPostgres",
    ),
    ("53300", 'too many connections for role "app"', "InitializeSessionUserId"),
    ("58000", "could not get connection from the pool - AllServersDown", ""),
    ("08P01", "Timed-out waiting to acquire database connection", ""),
)


def serve(port: int, state: str, text: str, routine: str) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while True:
                head = self.request.recv(8)
                if len(head) < 8:
                    return
                size, code = struct.unpack("!II", head)
                self.request.recv(size - 8)
                if code in (80877103, 80877104):
                    self.request.sendall(b"N")
                    continue
                where = f"Fx.c\0L1\0R{routine}\0" if routine else ""
                fields = f"SFATAL\0VFATAL\0C{state}\0M{text}\0{where}\0".encode()
                self.request.sendall(b"E" + struct.pack("!I", 4 + len(fields)) + fields)
                return

    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler).serve_forever()


first = int(sys.argv[1])
threads = [threading.Thread(target=serve, args=(first + n, *one), daemon=True) for n, one in enumerate(TEXTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
