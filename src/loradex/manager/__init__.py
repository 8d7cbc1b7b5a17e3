"""ModelManager: one base model of an application, its adapters by name, and answers in the form that code needs."""
