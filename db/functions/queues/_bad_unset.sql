create or replace function rota._bad_unset(
    unset text[],
    settings text[],
    given jsonb,
    owner text
)
    returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
begin
    foreach v_name in array unset loop
        if v_name is null or v_name <> all(settings) then
            return format(
                'unset: %s is not a setting of a %s', left(coalesce(v_name, 'null'), 100), owner
            );
        end if;

        if given ->> v_name is not null then
            return format('%s is both given and unset', v_name);
        end if;
    end loop;

    return null;
end;
$$;

comment on function rota._bad_unset is
    'Say what is wrong with a list of settings that are to be unset, or return null.';
