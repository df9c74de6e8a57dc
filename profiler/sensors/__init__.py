"""Sensor back-ends, one file each, found through the entry points `fedmeter.sensors`."""
