-- Who does a chore holds its row until the end of the transaction; another is told so and waits for
-- nothing. Nobody but our own functions can lock it. A row that was deleted, or left out of a copy,
-- is made anew: it must not keep the chore from being done for ever. That is asked first, for an
-- insert waits where the row is there and somebody holds it.
create or replace function rota._take_chore(chore text)
    returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from rota.chores as c where c.chore = _take_chore.chore) then
        insert into rota.chores (chore)
        values (_take_chore.chore)
        on conflict do nothing;
    end if;

    perform
    from rota.chores as c
    where c.chore = _take_chore.chore
    for no key update skip locked;

    return found;
end;
$$;

comment on function rota._take_chore is
    'Take a chore that one session does at a time; false if another does it.';
