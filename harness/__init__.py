"""Experiments over fleets of devices."""
