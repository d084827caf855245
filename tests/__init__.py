"""Claims about the library, each a test's name."""
