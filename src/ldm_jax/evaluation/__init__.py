"""Scores of samples and of models, computed from images and likelihoods."""
