-- Pure arithmetic on its arguments. Every way out of the loop is a set of bits inside
-- lowest..highest or a raise, and the text is at most as long as _cron_parse allows.
create or replace function rota._cron_field(
    entry text,
    field text,
    lowest integer,
    highest integer,
    names text[] default '{}'
)
    returns bigint
    language plpgsql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
declare
    v_bits bigint := 0;
    v_item text;
    v_parsed boolean;
    v_range text;
    v_word text;
    v_from integer;
    v_to integer;
    v_step integer;
begin
    if entry = '*' then
        return ((1::bigint << (highest - lowest + 1)) - 1) << lowest;
    end if;

    foreach v_item in array string_to_array(entry, ',') loop
        -- matching whole items and splitting them is ten times as fast as capturing their parts
        v_parsed := v_item
            ~ '^(?:[*]|(?:[0-9]{1,2}|[A-Z]{3})(?:-(?:[0-9]{1,2}|[A-Z]{3}))?)(?:/[0-9]{1,2})?$';
        if v_parsed then
            v_range := split_part(v_item, '/', 1);
            v_step := coalesce(nullif(split_part(v_item, '/', 2), ''), '1')::integer;
            if v_range = '*' then
                v_from := lowest;
                v_to := highest;
            else
                v_word := split_part(v_range, '-', 1);
                v_from := case
                    when v_word ~ '[A-Z]' then array_position(names, v_word) + lowest - 1
                    else v_word::integer
                end;
                v_word := split_part(v_range, '-', 2);
                v_to := case
                    when v_word ~ '[A-Z]' then array_position(names, v_word) + lowest - 1
                    when v_word <> '' then v_word::integer
                    when strpos(v_item, '/') > 0 then highest
                    else v_from
                end;
                if v_to = 0 and v_from > 0 and highest = 7 then
                    v_to := 7;  -- a range that ends on Sunday
                end if;
            end if;
        end if;

        if not v_parsed or v_from is null or v_to is null
            or v_from < lowest or v_to > highest or v_from > v_to
            or v_step < 1 or v_step > highest - lowest + 1
        then
            raise exception 'cron field %: "%" is not allowed', field, left(v_item, 40)
                using errcode = 'RTV02',
                      hint = format(
                          '%s takes %s to %s%s: *, single values, ranges such as %s-%s, '
                              'steps such as */2, and lists of these with commas%s.',
                          field, lowest, highest,
                          case when names <> '{}' then
                              format(' or %s to %s', names[1], names[cardinality(names)])
                          end,
                          lowest, lowest + 3,
                          case field
                              when 'day-of-month' then '; also L, L-3, LW and 15W'
                              when 'day-of-week' then '; also 5L (the last Friday) and 5#2'
                          end
                      );
        end if;

        if v_step = 1 then
            v_bits := v_bits | (((1::bigint << (v_to - v_from + 1)) - 1) << v_from);
        else
            for v_value in v_from..v_to by v_step loop
                v_bits := v_bits | (1::bigint << v_value);
            end loop;
        end if;
    end loop;

    return v_bits;
end;
$$;

comment on function rota._cron_field is
    'Read one field of a cron expression into a set of bits, or raise RTV02.';
