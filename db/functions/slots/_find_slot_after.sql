-- Total but for what is no fault of this schedule: it decides inside finish_job, recover_jobs and
-- claim_next_job, where one bad schedule must stop no other job.
create or replace function rota._find_slot_after(
    schedule rota.schedules,
    after timestamptz,
    out slot timestamptz,
    out error text
)
    returns record
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    slot := rota._slot_after(schedule, after);
exception
    when others then
        if rota._is_passing(sqlstate) then
            raise;
        end if;

        error := rota._slot_error(sqlerrm);
end;
$$;

comment on function rota._find_slot_after is
    'Say which slot of a schedule comes first after a time, or why that cannot be said.';
