"""Three nodes of Patroni that lose one another, and Rota on them: ``make ha``."""
