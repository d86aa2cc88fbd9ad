create or replace function rota._raise_impossible(job_id bigint, rule text)
    returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'job % would break the rule %', job_id, rule
        using errcode = 'RTI01',
              hint = 'No function of Rota does that: somebody writes to live_jobs by hand, or this '
                  'is a bug.';
end;
$$;

comment on function rota._raise_impossible is
    'Refuse a row of live_jobs by the rule that it breaks.';
