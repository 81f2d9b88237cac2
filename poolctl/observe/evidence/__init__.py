"""Evidence that people have after an incident: pastes, exports and logs, read into the samples that live looking gives.

``read_evidence`` in ``read`` is the way in. Formats are recognized by content, never by name. A figure that the
evidence does not have is None; a line that no reader understands is counted and named, never dropped in silence.
"""
