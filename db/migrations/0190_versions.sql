-- depends: 0151_server_of_ids

-- Which functions this database has had. A process that was started from one of these is older than
-- the database, and goes on; one that is not known here is newer, and asks for a deploy.
create table if not exists rota.versions (
    version text primary key,
    deployed_at timestamptz not null
);
