"""What is sent to a rented machine: code and photos."""
