-- For whoever reads a message, not for anybody who computes with it.
create or replace function rota._rough_span(span interval)
    returns text
    language sql
    immutable
as $$
    select case
        when s.seconds < 120 then s.seconds || ' s'
        when s.seconds < 7200 then s.seconds / 60 || ' min'
        when s.seconds < 172800 then s.seconds / 3600 || ' h'
        else s.seconds / 86400 || ' days'
    end
    from (select extract(epoch from span)::bigint as seconds) as s
$$;

comment on function rota._rough_span is
    'Write an interval in its largest unit, as people say it.';
