-- depends: 0150_id_timeline

-- Which server gave out the ids: a restored dump keeps the timeline, and not the server.
alter table rota.settings
    add column if not exists system_identifier bigint;
