"""Scenarios (what to run) and Runs (what happened). No I/O except for reading a scenario file."""
