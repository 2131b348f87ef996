"""Measure many items once each, in any process, in a folder that survives every interruption."""
