"""The loop: score a pool, rank it, publish the order, answer Label Studio."""
