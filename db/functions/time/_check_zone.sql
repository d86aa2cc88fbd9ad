-- "at time zone" also takes abbreviations, whose offset never changes (CET is one, not the zone of
-- that name), and POSIX rules such as 'Mars/Phobos1'. Both are silent mistakes in a schedule. An
-- abbreviation has no slash and a POSIX rule has a digit, so the shape tells; the few zones whose
-- names look the same are listed. That is thousands of times cheaper than pg_timezone_names, which
-- reads a directory tree, and cannot break a schedule that was saved before.
create or replace function rota._check_zone(time_zone text)
    returns void
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if time_zone = 'UTC' then
        return;
    end if;

    if time_zone ~ '^[A-Za-z_]+(/[A-Za-z_-]+)+$'
        or time_zone ~ '^(Etc/)?GMT[+-]?0$'
        or time_zone ~ '^Etc/GMT(-[1-9]|-1[0-4]|[+][1-9]|[+]1[0-2])$'
        or time_zone in (
            'CST6CDT', 'Cuba', 'EST5EDT', 'Egypt', 'Eire', 'GB', 'GB-Eire', 'GMT', 'Greenwich',
            'Hongkong', 'Iceland', 'Iran', 'Israel', 'Jamaica', 'Japan', 'Kwajalein', 'Libya',
            'MST7MDT', 'NZ', 'NZ-CHAT', 'Navajo', 'PRC', 'PST8PDT', 'Poland', 'Portugal', 'ROC',
            'ROK', 'Singapore', 'Turkey', 'UCT', 'Universal', 'W-SU', 'Zulu'
        )
    then
        begin
            perform timestamptz 'epoch' at time zone _check_zone.time_zone;
            return;
        exception
            when invalid_parameter_value then
                null;  -- the server does not know it: refused below
        end;
    end if;

    raise exception 'time_zone "%" is not a time zone that the server knows', left(time_zone, 100)
        using errcode = 'RTV02',
              hint = 'Write an IANA name such as Europe/Berlin, Etc/GMT+5 or UTC. An abbreviation '
                  'such as CET or EST would never change its offset.';
end;
$$;

comment on function rota._check_zone is
    'Raise RTV02 unless a text is the name of an IANA time zone that this server knows.';
