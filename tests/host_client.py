"""A client process for the tests of the host's view: holds connections, begins a statement on each, and stays."""

import sys

import psycopg

conninfo, statement, count = sys.argv[1:]
clients = [psycopg.connect(conninfo, autocommit=True) for _ in range(int(count))]
sys.stdout.write("connected\n")
sys.stdout.flush()
for client in clients:
    client.execute(statement.encode())
sys.stdin.read()
