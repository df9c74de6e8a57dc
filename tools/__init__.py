"""Makers of files that are shipped or put on devices; each needs what `fedmeter[models]` brings."""
