"""Text flows in, audio flows out: many streams at once on one device. See `cosyjax.streaming.engine`."""
