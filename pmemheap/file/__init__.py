"""File: a heap file: its locks, superblock, segments, log, recovery, copies."""
