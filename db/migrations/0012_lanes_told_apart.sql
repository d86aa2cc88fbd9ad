-- depends: 0011_kept_since

-- Copies of a lane cannot be told apart otherwise, and so not deleted from a table in a publication
-- (0020_replica_identity). By itself, for every claim and enqueue waits while this table is locked.
alter table rota.lanes replica identity full;
