-- depends: 0190_versions

-- Each entry holds the id of its job, so none is there twice but of versions of one row. To look
-- for others whenever a page is full is in vain, and costs most where a claim takes many limited
-- jobs, which makes new entries of all of them.
alter index rota.live_jobs_lane set (deduplicate_items = off);
alter index rota.live_jobs_counted set (deduplicate_items = off);
