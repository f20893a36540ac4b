"""Models over images: which ones, in what batches, and what is kept of what they saw."""
