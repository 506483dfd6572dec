"""Delivering: durable first, then to each of the user's sockets."""
