"""What the suites share: servers to test against, users who sign in, and agents that behave in known ways."""
