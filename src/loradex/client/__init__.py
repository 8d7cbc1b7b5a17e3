"""The HTTP client, sync and async: the same verbs as the service, the same errors."""
