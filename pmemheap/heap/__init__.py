"""Heap: the heap and what belongs to it: arenas, transactions, roots, handles, statistics."""
