create or replace function rota._histogram(buckets integer[], numbers bigint[])
    returns bigint[]
    language sql
    immutable
as $$
    select array(
        select coalesce(sum(u.number), 0)::bigint
        from generate_series(1, 14) as b(bucket)
        left join unnest(buckets, numbers) as u(bucket, number) on u.bucket = b.bucket
        group by b.bucket
        order by b.bucket
    )
$$;

comment on function rota._histogram is
    'Make a histogram of how many fell into which bucket; a bucket may come several times.';
