-- depends: 0164_receipts

-- Partitions of history that were gone through, or are, for what ran out in them (_thin_history).
create table if not exists rota.thinned (
    part text not null,
    parent text not null,
    starts_at timestamptz not null,
    ends_at timestamptz not null,
    gone text[] not null default '{}',     -- what had run out when it was last gone through
    going text[],       -- what runs out now; null when nobody goes through it
    copies boolean,     -- what stays is copied; else what ran out is deleted in its place
    next_block bigint,  -- where to go on
    removed_completed bigint not null default 0,
    removed_failed bigint not null default 0,
    xid xid8,           -- the transaction of the last step
    open text[],        -- the transactions that were open after all was copied
    again_at timestamptz,  -- something was kept for a workflow: to be gone through again then

    constraint thinned_pkey primary key (part)
);

-- Rows of a partition that is being copied that came or went meanwhile: noted by a trigger.
create table if not exists rota.thinned_changes (
    part text not null,
    job_id bigint not null,

    constraint thinned_changes_pkey primary key (part, job_id)
);

insert into rota.chores (chore)
values ('thin_history')
on conflict do nothing;
