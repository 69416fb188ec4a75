"""Texts as vectors: encoders, whitening, neighbours, diversity."""
