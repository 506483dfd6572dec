"""Running agents: the Agent port, what an agent is given, and the engines."""
