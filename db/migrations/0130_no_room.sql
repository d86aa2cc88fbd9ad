-- depends: 0127_filter_by_key

-- Due jobs that wait for room under a limit, of their key or of their queue; and since when the
-- first of the others is due.
alter table rota.census
    add column if not exists no_room bigint not null default 0,
    add column if not exists oldest_with_room_at timestamptz;
