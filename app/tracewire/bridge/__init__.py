"""Sequencing: from what an agent did to envelopes, held against the contract."""
