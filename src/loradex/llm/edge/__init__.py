"""TensorRT-Edge-LLM's runner: a file of requests in its JSON in, a file of answers in its JSON out."""
