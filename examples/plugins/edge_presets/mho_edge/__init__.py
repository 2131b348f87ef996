"""Presets of small accelerators; `mho plugins` lists them."""
