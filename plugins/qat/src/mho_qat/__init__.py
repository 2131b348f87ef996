"""Quantisation-aware and noisy training."""
