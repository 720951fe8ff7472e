"""Pictures: what is where in a heap, for a terminal, a browser and a notebook.

    model      every unit of every arena, as pieces that lie end to end
    page       one file of HTML to zoom in: `report`
    figures    the tables of the page       timeline   growth and giving back, by a trace

The drawing of a terminal is `pmemheap.cli.unitmap`.
"""

from pmemheap.pictures.model import ArenaMap, read_arenas
from pmemheap.pictures.page import report
from pmemheap.pictures.pieces import Kind, Piece

__all__ = ["ArenaMap", "Kind", "Piece", "read_arenas", "report"]
