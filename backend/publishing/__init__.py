"""Orders and boxes in Label Studio: published, kept served, answered, examined."""
