"""The agents that come with Tracewire, each in a module or package of its own."""
