"""Faults, injected into the real worker and API against a real server of their own."""
