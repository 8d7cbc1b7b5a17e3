"""The offline API that people know from vLLM and TensorRT-LLM, on the same service that the server stands on."""
