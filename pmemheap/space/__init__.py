"""Space: units of address space, where a heap's memory comes from: regions, extents, growth."""
