"""What a spread pick is made of: the greedy, near-duplicates, embeddings, weights of classes."""
