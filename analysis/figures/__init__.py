"""Figures, one file each, found through the entry points `fedmeter.figures`."""
