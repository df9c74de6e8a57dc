"""Strategies, one paper one file, found through the entry points `fedmeter.strategies`."""
