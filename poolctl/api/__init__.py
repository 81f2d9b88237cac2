"""The Python API: simulate(), inspect() and recommend(), their requests and their results. No click, no rich."""
