"""One module a command: parse, call, report."""
