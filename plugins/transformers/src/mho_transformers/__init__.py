"""Hugging Face and Lightning."""
