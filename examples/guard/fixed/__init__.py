"""The shop without its leaks."""
