"""The store's schema, step by step; `migrate.py` runs them when a store is opened."""
