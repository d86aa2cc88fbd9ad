-- Names are those of HTTP's headers, in lower case, as HTTP/2 and W3C's traceparent write them: so
-- each has one spelling, and whoever sends them on need not look for two. Values are one line of
-- text, so that they can be sent on, too. Asked only of jobs that have headers.
create or replace function rota._bad_headers(headers jsonb)
    returns text
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_header record;
begin
    if jsonb_typeof(headers) <> 'object' then
        return format('headers must be an object of texts, not of type %s', jsonb_typeof(headers));
    end if;

    if octet_length(headers::text) > 8192 then
        return format(
            'headers must have at most 8192 bytes as JSON, not %s', octet_length(headers::text)
        );
    end if;

    for v_header in
        select h.name, jsonb_typeof(h.value) as type, h.value #>> '{}' as value
        from jsonb_each(headers) as h(name, value)
        order by h.name collate "C"
    loop
        if v_header.name collate "C" !~ '^[a-z0-9!#$%&''*+.^_`|~-]{1,100}$' then
            return format(
                'headers: a name must have 1 to 100 characters of a-z, 0-9 and "-", "_" or ".", '
                    'in lower case, not %s',
                to_json(left(v_header.name, 100))
            );
        end if;

        if v_header.type <> 'string' then
            return format(
                'headers: %s must be a text, not of type %s', v_header.name, v_header.type
            );
        end if;

        if v_header.value ~ '[[:cntrl:]]' then
            return format('headers: %s must not contain control characters', v_header.name);
        end if;
    end loop;

    return null;
end;
$$;

comment on function rota._bad_headers is
    'Say what is wrong with the headers of a job, or return null.';
