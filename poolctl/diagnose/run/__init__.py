"""The diagnosis of a simulated run: a Run in, findings out."""
