"""The use cases: generate, and the verbs on adapters. Everything above speaks to `Service`."""
