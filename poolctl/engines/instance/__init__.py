"""What runs in an instance's process: the load, the pool under test, and what is counted."""
