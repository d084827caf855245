"""Code that runs on a rented machine."""
