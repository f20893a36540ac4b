"""From annotations to a trained detector, and its quality."""
