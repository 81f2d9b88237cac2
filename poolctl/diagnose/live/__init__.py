"""The diagnosis of live systems: an observation in, findings out."""
