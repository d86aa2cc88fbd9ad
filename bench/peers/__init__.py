"""The contestants: one module each, and the processes that they run in."""
