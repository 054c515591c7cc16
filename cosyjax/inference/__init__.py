"""Requests and voices in, speech out: offline in batches, and as streams."""
