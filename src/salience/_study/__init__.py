"""A result, in words and in its files."""
