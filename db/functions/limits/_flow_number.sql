create or replace function rota._flow_number(key text)
    returns integer
    language sql
    immutable
as $$
    select hashtext(key) & 1023
$$;

comment on function rota._flow_number is
    'Number the lock that claims of a limited key take; two keys may have the same.';
