"""Snapshots or a Run in, findings out. Pure: one short function a finding, each with its evidence."""
