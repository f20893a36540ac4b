"""From stored scores and embeddings to an order of a project's unlabelled tasks."""
