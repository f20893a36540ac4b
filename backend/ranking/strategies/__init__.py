"""A file a strategy: `order(candidates)` returns their row numbers, first place first.

`backend/strategies.py` has a line for each, by which everything else knows it.
"""
