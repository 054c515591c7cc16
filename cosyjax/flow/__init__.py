"""Conditional flow matching: speech tokens to mel spectrogram (paper 2.4)."""
