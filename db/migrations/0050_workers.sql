-- depends: 0040_unhandled

-- What a worker says of itself at its last announcement; null from one that does not say it.
alter table rota.workers
    add column if not exists tasks text[],  -- those it has handlers for
    add column if not exists overrun integer,  -- places held by handlers whose attempts are over
    add column if not exists clock timestamptz;  -- its own, when ours showed last_seen_at
