-- depends: 0111_finished_headers

-- Since when a queue and a task have been counted. Metrics give names of their own to so many of
-- them; were those the largest ones, a counter of all others would go down when one grew.
alter table rota.totals
    add column if not exists first_counted_at timestamptz not null default now();
