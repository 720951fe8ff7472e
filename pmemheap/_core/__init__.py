"""The C core and its two doors: `_sys` (no GIL) and `_hot` (GIL kept)."""
