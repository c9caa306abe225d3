"""Scores of trained models, one file a kind of task, and what they are compared with."""
