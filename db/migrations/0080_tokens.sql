-- depends: 0077_shared_cursors

-- Tokens of the API. A token stands for a principal, which is a database role: what that role may
-- do, a request with the token may. Of the token itself only its SHA-256 is kept, which needs no
-- salt, for it is the hash of 256 random bits. A token is never removed, so that an API that asks
-- for one does not fall back to asking nobody.
create table if not exists rota.api_tokens (
    token_id bigint generated always as identity primary key,
    principal text not null,
    hash bytea not null,
    prefix text,  -- of the token, to know it again; null of one that was made elsewhere
    note text,
    created_at timestamptz not null,
    created_by text not null,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,

    constraint hash_is_of_256_bits check (octet_length(hash) = 32),
    constraint expires_after_it_was_made check (expires_at > created_at)
);

create unique index if not exists api_tokens_hash on rota.api_tokens (hash);

-- What operators did, each in the transaction that did it. Read through the view rota.actions.
create table if not exists rota.action_log (
    action_id bigint generated always as identity primary key,
    at timestamptz not null,
    actor text not null,  -- the role that called
    on_behalf_of text,    -- whom a program that asks for others acted for
    function text not null,
    job_id bigint,
    queue text,
    schedule text,
    token_id bigint,
    affected bigint not null,
    details jsonb not null  -- short: its only writer cuts them (_record_action)
);

create index if not exists action_log_by_time on rota.action_log (at);

do $$
begin
    if to_regtype('rota.created_token') is null then
        create type rota.created_token as (token_id bigint, token text);
    end if;

    -- A job that somebody steered; where it was left as it is, why.
    if to_regtype('rota.steered_job') is null then
        create type rota.steered_job as (
            job_id bigint,
            queue text,
            state text,
            run_at timestamptz,
            refusal text
        );
    end if;

    -- Which jobs; what is null, is not asked for.
    if to_regtype('rota.job_filter') is null then
        create type rota.job_filter as (
            ids bigint[],
            state text[],
            queue text,
            task text,
            schedule_type text,
            unique_key text,
            run_at_from timestamptz,
            run_at_before timestamptz,
            finished_at_from timestamptz,
            finished_at_before timestamptz
        );
    end if;

    if to_regtype('rota.bulk_outcome') is null then
        create type rota.bulk_outcome as (
            matched integer,
            changed integer,
            more boolean,
            job_ids bigint[]
        );
    end if;
end;
$$;
