"""From annotations to a trained detector, and to how good it is."""
