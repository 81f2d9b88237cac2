"""The process of one instance: the load, the pool under test, and its counts."""
