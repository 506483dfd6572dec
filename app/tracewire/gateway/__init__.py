"""The edge: who gets in, and what crosses the wire."""
