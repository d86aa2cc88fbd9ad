#!/usr/bin/env bash
# A worker in bash and curl: ROTA_URL=… ROTA_TOKEN=… worker.sh QUEUE COMMAND [ARGUMENT…]
# COMMAND reads a payload and prints the result, both JSON; an exit code but 0 is a failed attempt.
# Whatever line this dies on, the job runs again after its lease; who is too late changes nothing.
url=${ROTA_URL:-http://127.0.0.1:5000} lease=${ROTA_LEASE:-30} queue=${1:?is missing} && shift
claim="\"queues\": [\"$queue\"], \"lease_seconds\": $lease, \"worker\": \"worker.sh $HOSTNAME $$\""
next=", \"claim_next\": {$claim}" # in the same request, until we are to stop
job='"id":([0-9]+),"token":"([^"]+)","task":"([^"\]|\\.)*","payload":(.*),"queue".*onds":(.*),"run"'
trap 'stopping=yes next=""; [[ ! $waits ]] || kill "$waits"' TERM INT # what we have, we finish
export -n ROTA_TOKEN                                                  # not COMMAND's business

post() { # PATH BODY: sets $status and $answer; asks again for as long as nobody can answer
    while :; do
        exec {pipe}< <(exec curl -sS -m 40 -w '\n%{http_code}' "$url/jobs/$1" --data-binary @- \
            -H @<(printf "${ROTA_TOKEN:+Authorization: Bearer %s}" "$ROTA_TOKEN") \
            -H 'Content-Type: application/json' <<<"$2")
        [[ $1 == claim ]] && waits=$! && [[ $stopping ]] && kill "$waits"
        IFS='' read -r -d '' answer <&"$pipe"
        exec {pipe}<&- && waits='' status=${answer##*$'\n'} answer=${answer%%$'\n'*}
        case $1-$status$stopping in *-2* | claim*yes | */*-40[049]* | */*-4[12][23]*) return ;; esac
        echo "worker.sh: $url: ${answer:-no answer}; trying again" >&2 && sleep 2
    done
}

while [[ $answer =~ $job || ! $stopping ]]; do
    [[ $answer =~ $job ]] || { post claim "{$claim, \"wait_seconds\": 20}" && continue; }
    id=${BASH_REMATCH[1]} held="\"token\": \"${BASH_REMATCH[2]}\"" limit=${BASH_REMATCH[5]/null/0}
    exec {work}< <(trap 'kill $!' TERM; ROTA_JOB_ID=$id timeout "$limit" "$@" \
        <<<"${BASH_REMATCH[4]}" & wait $!; echo " $?")
    command=$! output='' beat=$((lease / 3)).$((lease % 3 * 3))
    while IFS='' read -r -d '' -t "$beat" part <&"$work" || (($? > 128)); do
        output+=$part && post "$id/heartbeat" "{$held, \"lease_seconds\": $lease}"
        [[ $answer == *'requested":false'* ]] || kill "$command" # cancelled, or no longer ours
    done
    exec {work}<&- && output+=$part code=${output##* } end="\"result\": ${output% *}"
    [[ $code == 0* ]] || end="\"error\": \"exit code ${code%?}\""
    post "$id/finish" "{$held, $end$next}"
    [[ $status == 4* ]] && echo "worker.sh: job $id: $answer" >&2
    [[ $status != 4?[023] ]] || post "$id/finish" "{$held, \"error\": \"its result was refused\"}"
done
