"""28 sessions of an application, busy now and then, whose pool believes that it has 98 in use. CONNINFO STATS_FILE."""

import json
import random
import sys
import time
from pathlib import Path

import psycopg

sessions = [psycopg.connect(sys.argv[1], autocommit=True) for _ in range(28)]
figures = {"library": "npgsql", "name": "main", "application": "importer", "max_open": 100}
Path(sys.argv[2]).write_text(json.dumps(figures | {"open": 98, "in_use": 98, "idle": 0, "waiting": 6}))
while True:
    random.choice(sessions).execute("SELECT count(*) FROM pg_class")
    time.sleep(0.02)
