"""Joules and seconds of a piece of work, on any device."""
