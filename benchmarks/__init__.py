"""Measurements anyone can run: each prints one JSON line."""
