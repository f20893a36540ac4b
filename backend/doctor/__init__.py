"""What is wrong with a set-up, and the one thing to do about each: the verb `doctor`."""
