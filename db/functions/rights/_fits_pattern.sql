-- Written so that the planner can put it in the place of its call.
create or replace function rota._fits_pattern(queue text, pattern text)
    returns boolean
    language sql
    immutable
    parallel safe
as $$
    select coalesce(
        queue = pattern or right(pattern, 2) = '.*' and starts_with(queue, left(pattern, -1)),
        false
    )
$$;

comment on function rota._fits_pattern is
    'Tell whether a queue is one of those that the pattern of a wall stands for.';
