"""Runs as their users see them, from acceptance to what a crash left of them."""
