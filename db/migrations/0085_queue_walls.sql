-- depends: 0080_tokens

-- A role with rows here sees and touches the queues of its patterns only: exact names, or
-- "prefix.*". A role without any sees all. By its name, as a dump has roles, and so a role that is
-- dropped and made anew is walled still.
create table if not exists rota.queue_walls (
    principal text not null,
    queue_pattern text not null,
    created_at timestamptz not null default clock_timestamp(),

    constraint queue_walls_pkey primary key (principal, queue_pattern)
);
