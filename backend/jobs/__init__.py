"""Jobs that survive: their table says what is due, and workers poll it."""
