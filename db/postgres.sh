# The PostgreSQL of the compose stack, as .env wants it: `bash postgres.sh start`, or `ready` to ask
# whether it is.
#
# Without DATABASE_URL, the three secrets say which passwords its roles get (db/logins.sql). A
# DATABASE_URL whose host is this service, `postgres`, says which user, password and database there
# are to be. With any other host it stays off, and says so.

set -euo pipefail

fail() {
    echo "compose: $1" >&2
    exit 1
}

# Percent-encoded text, such as p%40ss; a backslash is one.
decode() {
    local text=${1//\\/\\\\}
    printf '%b' "${text//%/\\x}"
}

# Sets user, password, host and database as libpq reads them from a URL: what stands before the
# first @ is the user's, and what stands behind a question mark goes before all else.
read_url() {
    local rest=${1#*://} credentials='' hosts tail parameter
    if [[ ${rest%%/*} == *@* ]]; then
        credentials=${rest%%@*}
        rest=${rest#*@}
    fi
    hosts=${rest%%[/?]*}
    tail=${rest#"$hosts"}
    user=${credentials%%:*}
    password=''
    if [[ $credentials == *:* ]]; then password=${credentials#*:}; fi
    host=${hosts%%:*}
    database=${tail%%\?*}
    database=${database#/}
    if [[ $tail == *\?* ]]; then
        while IFS= read -r -d '&' parameter; do
            case $parameter in
                user=*) user=${parameter#*=} ;;
                password=*) password=${parameter#*=} ;;
                host=*) host=${parameter#*=} ;;
                dbname=*) database=${parameter#*=} ;;
            esac
        done <<<"${tail#*\?}&"
    fi
    user=$(decode "$user")
    password=$(decode "$password")
    host=$(decode "$host")
    database=$(decode "$database")
}

is_ours=yes
if [[ -n ${DATABASE_URL:-} ]]; then
    [[ $DATABASE_URL =~ ^postgres(ql)?:// ]] ||
        fail "write DATABASE_URL as postgresql://user:password@host:5432/database"
    read_url "$DATABASE_URL"
    if [[ $host == postgres ]]; then
        [[ -n $user && -n $password ]] || fail "DATABASE_URL has no user or no password"
        export POSTGRES_USER=$user POSTGRES_PASSWORD=$password POSTGRES_DB=${database:-$user}
    else
        is_ours=no
    fi
else
    for secret in POSTGRES_PASSWORD API_PASSWORD WORKER_PASSWORD; do
        [[ -n ${!secret:-} ]] || fail "$secret is missing: set it in .env, or set DATABASE_URL"
    done
    export POSTGRES_USER=postgres POSTGRES_DB=rota
fi

case ${1:-} in
    start)
        if [[ $is_ours == yes ]]; then exec docker-entrypoint.sh postgres; fi
        trap 'exit 0' TERM INT
        echo "compose: DATABASE_URL names another server; this one stays off"
        sleep infinity &
        wait
        ;;
    ready)
        if [[ $is_ours == yes ]]; then
            exec pg_isready --host=127.0.0.1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB"
        fi
        ;;
    *)
        fail "expected start or ready"
        ;;
esac
