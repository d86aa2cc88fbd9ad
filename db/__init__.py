"""Rota's database: migrations, functions, their deployment and an embedded server."""
