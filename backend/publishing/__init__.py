"""Orders and boxes in Label Studio: published, kept served, and answered at `/predict`."""
