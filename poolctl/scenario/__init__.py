"""What to run, as a scenario file says it, and what happened, as a Run. No I/O but reading a file."""
