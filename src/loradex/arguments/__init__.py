"""What other systems call our settings, and the files in which settings are written."""
