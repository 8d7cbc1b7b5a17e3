"""The command line: thin commands, each with one mouth, `Output`."""
