"""Launchers, one file each, found through the entry points `fedmeter.launchers`."""
