-- depends: 0125_keyed_lanes

-- The functions of before use the type, too: they know its attributes by their names, so that one
-- more at the end of it changes nothing for them.
do $$
begin
    if not exists (
        select
        from pg_catalog.pg_attribute as a
        where a.attrelid = 'rota.job_filter'::regclass and a.attname = 'key'
    ) then
        alter type rota.job_filter add attribute key text;
    end if;
end;
$$;
