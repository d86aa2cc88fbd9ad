-- The logins of the API and the worker, for psql on a new server (docker-compose runs it once).
-- Neither owns anything: each has the rights of its group roles, which db/grants.sql states. Where
-- no passwords are set, all use the login of DATABASE_URL.

\set ON_ERROR_STOP on
\set api_password ''
\set worker_password ''
\getenv api_password API_PASSWORD
\getenv worker_password WORKER_PASSWORD

select :'api_password' <> '' and :'worker_password' <> '' as has_secrets \gset
\if :has_secrets
create role rota_producer nologin;
create role rota_worker nologin;
create role rota_operator nologin;
create role rota_reader nologin;

create role api login password :'api_password'
    in role rota_producer, rota_worker, rota_operator, rota_reader;
create role worker login password :'worker_password' in role rota_worker;
\endif
