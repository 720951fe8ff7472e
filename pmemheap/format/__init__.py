"""Format: the bytes of a file, as values and back; nothing of files, maps or threads."""
