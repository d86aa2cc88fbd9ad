-- A remedy is copied from the screen into a shell, and the name of a queue may be anything.
create or replace function rota._shell_word(word text)
    returns text
    language sql
    immutable
as $$
    select case
        when word ~ '^[[:alnum:]_./:@%+-]+$' and word !~ '^-' then word
        else '''' || replace(word, '''', '''"''"''') || ''''
    end
$$;

comment on function rota._shell_word is
    'Quote a text for a shell.';
