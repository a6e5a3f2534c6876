"""The study: trains a grid of models, measures them, and answers questions that were written down before."""
