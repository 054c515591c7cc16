"""Measures of trained parts and of speech."""
