"""The HTTP server: OpenAI's routes, vLLM's two adapter routes and our own `/api`, over one `Service`."""
