"""Speech over the wire: the OpenAI routes, a WebSocket for text that arrives, Wyoming, and a page."""
