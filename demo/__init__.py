"""A generated inspection line: demo images, and the small models that go with them."""
