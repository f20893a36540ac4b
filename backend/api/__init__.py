"""The HTTP API: what Label Studio calls, and what a script written for a hosted service calls."""
