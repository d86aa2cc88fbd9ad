"""Histories of concurrent runs: how they are written, and what is decided from them."""
