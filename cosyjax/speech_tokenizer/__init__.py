"""Speech tokenizer: 16 kHz recordings to 25 Hz ids (paper 2.2)."""
