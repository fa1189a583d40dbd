"""Files: how much of a stranger's is read, and how ours are written whole."""
