-- The logins of the API and the worker, for psql on a new server (docker-compose runs it once).
-- Neither owns anything: each has the rights of its group roles, which db/grants.sql states. Where
-- no passwords are set, all use the login of DATABASE_URL. Where no token is set, the API asks
-- nobody who they are, and its login has what they may do.

\set ON_ERROR_STOP on
\set api_password ''
\set worker_password ''
\set token ''
\getenv api_password API_PASSWORD
\getenv worker_password WORKER_PASSWORD
\getenv token ROTA_TOKEN

select
    :'api_password' <> '' and :'worker_password' <> '' as has_secrets,
    :'token' <> '' as has_token
\gset
\if :has_secrets
create role rota_producer nologin;
create role rota_worker nologin;
create role rota_operator nologin;
create role rota_reader nologin;
create role rota_api nologin;

-- The API may look up tokens, and become the roles that they stand for; nothing by itself.
create role api login noinherit password :'api_password' in role rota_api;
\if :has_token
\else
alter role api inherit;
grant rota_producer, rota_worker, rota_operator, rota_reader to api;
\endif
create role worker login password :'worker_password' in role rota_worker;
\endif
