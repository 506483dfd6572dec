"""The trace kit: recorders of exported spans, for tests. Nothing here runs in a server."""
