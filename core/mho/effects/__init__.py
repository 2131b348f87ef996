"""The contract: effects, converters, mappings and compensations, and what they may know of a tile."""
