"""What goes over the wire: pydantic models of the bodies that the routes read and write."""
