"""The bytes of an image from wherever a task points, and from nowhere else."""
