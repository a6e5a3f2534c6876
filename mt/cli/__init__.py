"""The commands: arguments to calls, one module each, no logic."""
