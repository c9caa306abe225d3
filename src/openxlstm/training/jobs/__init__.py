"""Kinds of training: where batches come from, what the model and its loss are, how it is scored, reported and drawn."""
