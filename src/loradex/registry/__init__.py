"""Names, versions, aliases and history of adapters, and the store that holds their files."""
