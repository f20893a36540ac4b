"""From annotations to a better model: read, trained on, evaluated, reported."""
