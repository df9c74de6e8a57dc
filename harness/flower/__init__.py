"""Runs that Flower carries: our server and loop as ever, and between them and the devices SuperNodes or Ray."""
