"""From a prompt to the adapter that should answer it: by words, by a trained classifier, or by sentence embeddings."""
