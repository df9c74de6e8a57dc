"""Fixtures that every room's tests use."""
