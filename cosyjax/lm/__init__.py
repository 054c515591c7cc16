"""Text-speech language model: Qwen2 stack, sequence layouts, sampling, decoding."""
