-- depends: 0105_explained

-- What doctor finds. critical: jobs do not run, or history is not kept; warning: that happens to
-- some, or is about to; note: good to know.
do $$
begin
    if to_regtype('rota.finding') is null then
        create type rota.finding as (
            severity text,
            "check" text,
            finding text,
            remedy text,
            evidence jsonb
        );
    end if;
end;
$$;
