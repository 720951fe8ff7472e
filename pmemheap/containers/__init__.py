"""Containers: structures that live in a heap, on its public face alone."""

from pmemheap.containers.array import Array
from pmemheap.containers.arrays import Arrays
from pmemheap.containers.ordered import OrderedMapping
from pmemheap.containers.sortedmap import SortedMap
from pmemheap.containers.vector import Vector

__all__ = ["Array", "Arrays", "OrderedMapping", "SortedMap", "Vector"]
