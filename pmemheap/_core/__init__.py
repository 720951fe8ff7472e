"""The C core and its two doors: `_sys` (cffi, GIL released) and `_hot` (extension types, GIL kept)."""
