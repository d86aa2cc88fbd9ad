create or replace function rota._turns_setting(queue text, priority integer)
    returns text
    language sql
    immutable
as $$
    select 'rota.turns_' || to_hex(hashtextextended(queue, priority))
$$;

comment on function rota._turns_setting is
    'Name the setting in which a session keeps from where on it looks for turns.';
