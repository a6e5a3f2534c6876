"""A grammar that ships: text for the demo, and the exact probability of every translation."""
