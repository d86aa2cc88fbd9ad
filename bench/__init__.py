"""Measures Rota and its peers on one server in one run: ``make bench``."""
