"""The HTTP routes, a file a topic."""
