"""Experiment files that ship with fedmeter."""
