"""Mutation testing of the path and the ledger: what mutmut runs with, its scores, and the survivors."""
