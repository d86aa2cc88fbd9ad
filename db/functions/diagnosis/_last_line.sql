create or replace function rota._last_line(error text)
    returns text
    language sql
    immutable
as $$
    select left(split_part(rtrim(error, chr(10) || chr(13) || ' '), chr(10), -1), 200)
$$;

comment on function rota._last_line is
    'Cut from an error what a traceback says last.';
