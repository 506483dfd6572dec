"""The package map."""
