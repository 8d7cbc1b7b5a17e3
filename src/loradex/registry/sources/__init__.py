"""Where adapters come from: a folder or archive here, the Hugging Face Hub, a bucket, a web server."""
