"""Training code of the Loradex demo model: one small base and four LoRA adapters."""
