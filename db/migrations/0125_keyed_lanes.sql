-- depends: 0124_limits_of_queues

-- True for the lanes of all keys of a queue and priority, to whose jobs turns lead; null for the
-- lane of its jobs without a key.
alter table rota.lanes add column if not exists keyed boolean;
