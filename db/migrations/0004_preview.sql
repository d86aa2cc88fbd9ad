-- depends: 0003_views

do $$
begin
    if to_regtype('rota.previewed_run') is null then
        create type rota.previewed_run as (run_at timestamptz, local_time text, note text);
    end if;
end;
$$;
