-- Inside a function of ours current_user is its owner, and session_user the login, which may serve
-- many (the API's). The role that was set is the caller, and no session can set one that its login
-- is not a member of; where none was set, the login itself is. Written so that the planner can put
-- it in the place of its call.
create or replace function rota._caller()
    returns text
    language sql
    stable
as $$
    select coalesce(nullif(current_setting('role'), 'none'), session_user)
$$;

comment on function rota._caller is
    'Tell who calls: the role that was set, else the login.';
