"""One module for each command: parse options, call ``api``, report."""
