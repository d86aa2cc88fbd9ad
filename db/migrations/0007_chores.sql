-- depends: 0006_sweep

-- What any worker may do for all of them, but only one session at a time: who does it holds the row
-- (for no key update skip locked), which nobody but Rota's own functions can do. An advisory lock
-- could be held by any login, and the chore would silently not be done any more.
create table if not exists rota.chores (
    chore text primary key,
    ran_at timestamptz,  -- when it was last done to its end
    took interval
);

insert into rota.chores (chore)
values ('recover_jobs'), ('maintain')
on conflict do nothing;
