"""HiFT vocoder: f0, harmonic source, iSTFT generator."""
