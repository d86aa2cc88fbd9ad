-- depends: 0062_claimed_run

-- By which session a worker shows that it lives; null where its leases alone decide. Nothing of
-- this is written while nothing happens, but with an announcement.
alter table rota.workers
    add column if not exists backend integer,  -- the process id of that session
    add column if not exists server_since timestamptz,  -- and the life of the server it belongs to
    add column if not exists gone_at timestamptz;  -- when it was first seen to have ended; stopped
                                                   -- as well: its worker was taken for dead
