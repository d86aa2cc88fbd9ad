-- Asked only of jobs that have one of the two.
create or replace function rota._bad_unique_for(
    unique_key text,
    unique_for interval,
    replace boolean
)
    returns text
    language sql
    stable
as $$
    select case
        when unique_for > interval '366 days' or not rota._leads_on(unique_for)
            then format(
                'unique_for must be more than 0 and at most 366 days, not %s',
                rota._span_text(unique_for)
            )
        when unique_key is null and unique_for is not null
            then 'unique_for needs a unique_key'
        when unique_key is null and replace
            then 'replace needs a unique_key'
    end
$$;

comment on function rota._bad_unique_for is
    'Say what is wrong with how long a key is to be unique, or return null.';
