"""Checks that take minutes, run by `make soak`."""
