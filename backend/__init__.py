"""Hardest First: an active-learning backend for Label Studio."""

__version__ = "0.1.0"
