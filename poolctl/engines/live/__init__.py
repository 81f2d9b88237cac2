"""Live runs: instances as processes, against a real server."""
