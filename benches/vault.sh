#!/usr/bin/env bash
# Measures accounts, the credential vault and the audit trail of mcp-fabric: reveals with their durable event, metadata,
# rotation under load, the chain, the trail at full size; and login, store and read beside mcp-contextforge-gateway, one
# after the other in one run. Everything listens on loopback, works in a temporary folder on a PostgreSQL of its own (fsync
# on), and is stopped and removed at the end. Prints Markdown on standard output and its progress on standard error.
#
#   benches/vault.sh PROGRAM            the figures, about ten minutes; PROGRAM is a built mcp-fabric
#   QUICK=1 benches/vault.sh PROGRAM    whether it still works, a few minutes
#
# Needs curl, jq, psql and PostgreSQL's programs, python3, wrk, root or the postgres user's rights; the peer needs uv and
# Python's package index, and is named as skipped where it cannot be had.
set -Eeuo pipefail
if [[ ${QUICK:-0} == 1 ]]; then figures="4 20000 100000 300000 100 20"; else figures="15 200000 1000000 10000000 500 60"; fi
read -r SECONDS_EACH ROTATED MANY TRAIL CALLS LOGINS <<<"$figures"

[[ $# == 1 && -x $1 ]] || { echo "usage: benches/vault.sh PROGRAM" >&2 && exit 2; }
program=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) && chmod 711 "$work"
bin=$(dirname "$(ls /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)")
say() { printf '%s\n' "$*" >&2; }
as_postgres() { if [[ $(id -u) == 0 ]]; then runuser -u postgres -- "$@"; else "$@"; fi; }
fabric_pid='' postgres_pid=''
finish() {
  local status=$?
  trap - EXIT
  [[ -z $fabric_pid ]] || { kill "$fabric_pid" 2>/dev/null && wait "$fabric_pid" 2>/dev/null; } || true
  WORK=$work/peer bash "$here/vault_peer.sh" peer_stop >/dev/null 2>&1 || true
  [[ -z $postgres_pid ]] || kill -INT "$postgres_pid" 2>/dev/null || true
  [[ $status == 0 ]] || tail -n 5 "$work"/*.log >&2 || true
  sleep 1
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# --- a PostgreSQL of its own, and the program on it
mkdir "$work/pg" && { [[ $(id -u) != 0 ]] || chown postgres "$work/pg"; }
as_postgres "$bin/initdb" -D "$work/pg/data" -A trust -E UTF8 --locale=C >"$work/initdb.log" 2>&1
port=$(free_port)
(cd "$work/pg" && as_postgres "$bin/pg_ctl" -D "$work/pg/data" -w -s -l "$work/pg/log" -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$work/pg -c shared_buffers=512MB -c max_wal_size=8GB" start)
postgres_pid=$(head -n 1 "$work/pg/data/postmaster.pid")
sql() { psql -qAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U "${2:-postgres}" "${3:-fabric}" -c "$1"; }
sql "CREATE ROLE fabric LOGIN CREATEROLE" postgres postgres
sql "CREATE DATABASE fabric OWNER fabric" postgres postgres
public=$(free_port) internal=$(free_port)
key() { "$program" credentials new-key; }
first=$(key) second=$(key)
for name in $(compgen -e FABRIC_) DATABASE_URL; do unset "$name"; done
export FABRIC_SYNC_ON_START=false FABRIC_SYNC_CRON=off FABRIC_ACCESS_LOG=false FABRIC_RATE_LIMIT=0 FABRIC_REVEAL_RATE=0 FABRIC_LOG=warn
export DATABASE_URL="postgresql://fabric@127.0.0.1:$port/fabric" JWT_SECRET_KEY; JWT_SECRET_KEY=$(key)
export FABRIC_DATA_DIR=$work/data FABRIC_CACHE_DIR=$work/cache FABRIC_LISTEN=127.0.0.1:$public FABRIC_INTERNAL_LISTEN=127.0.0.1:$internal
serve() {
  CREDENTIAL_ENCRYPTION_KEYS=$1 "$program" >"$work/fabric.log" 2>&1 &
  fabric_pid=$!
  until curl -sf -o "$work/hello" "http://127.0.0.1:$public/health/live"; do kill -0 "$fabric_pid"; sleep 0.2; done
}
serve "$first"
token=$(cat "$work/data/operator.token")
call() { curl -sf -H "Authorization: Bearer $token" -H 'Content-Type: application/json' "$@"; }
url=http://127.0.0.1:$public
call -d '{"email":"bench@example.com","password":"tundra anvil 93 quince"}' "$url/api/mcp/auth/register" >"$work/hello"
access() { curl -sf -H 'Content-Type: application/json' -d '{"email":"bench@example.com","password":"tundra anvil 93 quince"}' "$url/api/mcp/auth/login"; }
user=$(access | jq -r .user.id)
service=$(call -d '{"name":"bench","kind":"service","scopes":["credentials:reveal","credentials:write"],"servers":["everything"]}' "$url/api/mcp/tokens" | jq -r .token)

# cpu PID: microseconds of processor time of a process and its children
cpu() {
  python3 - "$1" <<'PY'
import os, sys
kids, spent = {}, {}
for p in filter(str.isdigit, os.listdir("/proc")):
    try: fields = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
    except OSError: continue
    spent[p] = sum(map(int, fields[11:15])); kids.setdefault(fields[1], []).append(p)
total, todo = 0, [sys.argv[1]]
while todo:
    p = todo.pop(); total += spent.get(p, 0); todo += kids.get(p, [])
print(int(total / os.sysconf("SC_CLK_TCK") * 1e6))
PY
}
cat >"$work/call.lua" <<'LUA'
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN")
wrk.headers["Content-Type"] = "application/json"
wrk.method = os.getenv("BENCH_METHOD")
wrk.body = os.getenv("BENCH_BODY")
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("%d %.3f %.3f %d\n", summary.requests, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.connect + e.read + e.write + e.status + e.timeout))
end
LUA
# load CONNECTIONS TOKEN METHOD URL [BODY]: gives `rate`, `p50`, `p99`, `fabric_us`, `postgres_us`
load() {
  local before_fabric before_postgres from requests failed
  before_fabric=$(cpu "$fabric_pid") before_postgres=$(cpu "$postgres_pid") from=$EPOCHREALTIME
  read -r requests p50 p99 failed < <(BENCH_TOKEN=$2 BENCH_METHOD=$3 BENCH_BODY=${5:-} wrk -t1 -c"$1" -d"${SECONDS_EACH}s" --latency -s "$work/call.lua" "$4" | tail -n 1)
  [[ $failed == 0 ]] || { say "$failed of $requests failed: $3 $4"; exit 1; }
  rate=$(awk "BEGIN { printf \"%.0f\", $requests / ($EPOCHREALTIME - $from) }")
  fabric_us=$((($(cpu "$fabric_pid") - before_fabric) / requests)) postgres_us=$((($(cpu "$postgres_pid") - before_postgres) / requests))
}
row() { printf '| %s |\n' "$(printf '%s | ' "$@" | sed 's/ | $//')"; }

fsync_ms=$(python3 - "$work" <<'PY'
import os, sys, time
f = os.open(os.path.join(sys.argv[1], "fsync"), os.O_CREAT | os.O_WRONLY); took = []
os.write(f, b"x" * 8192 * 64); os.fsync(f)
for n in range(400):
    os.pwrite(f, b"y" * 8192, 8192 * (n % 64)); t = time.perf_counter(); os.fdatasync(f); took.append(time.perf_counter() - t)
print(f"{sorted(took)[len(took) // 2] * 1000:.3f}")
PY
)
cat <<MARKDOWN
$(date -u +%F), $(nproc) cores ($(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)), PostgreSQL $(sql "SHOW server_version" | cut -d' ' -f1); one fsync of 8 KiB: $fsync_ms ms

| what | rate | p50 | p99 | CPU in the fabric | CPU in PostgreSQL |
|---|---|---|---|---|---|
MARKDOWN

# --- reveals and metadata
call -d '{"user_id":"bench","server_id":"everything","env_var":"API_KEY","value":"sk-0123456789abcdef"}' "$url/api/mcp/credentials" >"$work/hello"
reveal="http://127.0.0.1:$internal/api/mcp/credentials/bench/everything/decrypt"
for clients in 1 4 16; do
  say "reveals with $clients clients"
  load "$clients" "$service" POST "$reveal" '{}'
  row "reveal, $clients clients (16 / fsync = $(awk "BEGIN { printf \"%.0f\", $clients * 1000 / $fsync_ms }")/s)" "$rate/s" "$p50 ms" "$p99 ms" "$fabric_us µs" "$postgres_us µs"
done
ticket=$(access | jq -r .access_token)
curl -sf -H "Authorization: Bearer $ticket" -H 'Content-Type: application/json' -d "{\"user_id\":\"$user\",\"server_id\":\"everything\",\"env_var\":\"API_KEY\",\"value\":\"sk-0123456789abcdef\"}" "$url/api/mcp/credentials" >"$work/hello"
curl -sf -H "Authorization: Bearer $ticket" -H 'Content-Type: application/json' -d "{\"user_id\":\"$user\",\"server_id\":\"fetch\",\"env_var\":\"API_KEY\",\"value\":\"sk-0123456789abcdef\"}" "$url/api/mcp/credentials" >"$work/hello"
fill() { # fill FROM TO: rows that nobody opens, for the size of the table
  sql "SET session_replication_role = replica; INSERT INTO credentials.mcp_credentials (user_id, server_id, env_var, encrypted_value, iv, alg, kek_version, wrapped_dek, key_commit)
       SELECT 'filled' || n % 50000, 'everything', 'KEY_' || n, repeat('A', 108), repeat('A', 16), 1, 1, decode(repeat('00', 60), 'hex'), decode(repeat('00', 32), 'hex')
       FROM generate_series($1::bigint, $2::bigint) n; ANALYZE credentials.mcp_credentials"
}
fill 1 1000
for size in 1000 "$MANY"; do
  ((size == 1000)) || { say "filling $MANY credentials"; fill 1001 "$MANY"; sql "VACUUM ANALYZE credentials.mcp_credentials"; sql CHECKPOINT; }
  say "metadata among $size"
  load 16 "$ticket" GET "$url/api/mcp/credentials/$user/everything"
  row "metadata of one user, 16 clients, among $size credentials" "$rate/s" "$p50 ms" "$p99 ms" "$fabric_us µs" "$postgres_us µs"
done
load 1 "$ticket" POST "$url/api/mcp/credentials" '{"server_id":"everything","env_var":"API_KEY","value":"sk-0123456789abcdef"}'
row "store over the one before, 1 client" "$rate/s" "$p50 ms" "$p99 ms" "$fabric_us µs" "$postgres_us µs"

# --- rotation, with readers and writers
say "sealing $ROTATED values"
sql "DELETE FROM credentials.mcp_credentials WHERE user_id LIKE 'filled%'"
sql "VACUUM FULL credentials.mcp_credentials"
python3 - "$public" "$token" "$ROTATED" <<'PY'
import http.client, json, sys
port, token, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
c = http.client.HTTPConnection("127.0.0.1", int(port))
body = json.dumps({"credentials": [{"env_var": f"KEY_{n}", "value": f"sk-0123456789abcdef-{n}"} for n in range(200)]})
for user in range(rows // 200):
    c.request("PUT", f"/api/mcp/credentials/r{user}/everything", body, {"Authorization": "Bearer " + token, "Content-Type": "application/json"})
    r = c.getresponse(); r.read(); assert r.status == 200, r.status
PY
sql "VACUUM ANALYZE credentials.mcp_credentials"
kill "$fabric_pid" && wait "$fabric_pid" || true
serve "$first,$second"
load 2 "$service" POST "$reveal" '{}' && quiet=$p99
say "rotating"
rotation=$(call -d '{}' "$url/api/mcp/credentials/rotations" | jq -r .id)
load 2 "$service" POST "$reveal" '{}' && busy=$p99
until [[ $(call "$url/api/mcp/credentials/rotations/$rotation" | jq -r .state) == completed* ]]; do sleep 0.2; done
call "$url/api/mcp/credentials/rotations/$rotation" >"$work/rotation"
row "rotation of $ROTATED values with 2 clients that reveal all the time" "$(jq -r .rows_per_second "$work/rotation")/s" "" "reveal p99 $quiet → $busy ms" "" ""

# --- the chain
say "chaining"
events=$((MANY < 200000 ? 50000 : 200000))
chained() { curl -sf "$url/metrics" | awk '/^fabric_audit_events_total/ { print $2 }'; }
call "$url/api/mcp/audit?limit=1" >"$work/hello" && sleep 2
from_events=$(chained) before=$(cpu "$fabric_pid") began=$EPOCHREALTIME
sql "INSERT INTO audit.pending (event, pii, mac) SELECT '{\"id\":\"' || gen_random_uuid() || '\",\"at\":\"2026-11-20T12:00:00.123456Z\",\"event_type\":\"data_change\",\"action\":\"bench.change\",\"outcome\":\"success\",\"actor\":\"user:' || n % 1000 || '\",\"owner\":\"user:' || n % 1000 || '\",\"door\":\"public\",\"request_id\":\"r' || n || '\",\"target_type\":\"thing\",\"target_id\":\"t' || n || '\",\"server_id\":\"everything\",\"answers\":null,\"detail\":\"{}\",\"pii_commitment\":null}', NULL, decode(repeat('00', 32), 'hex') FROM generate_series(1, $events) n"
inserted=$EPOCHREALTIME
until (($(chained) - from_events >= events)); do sleep 0.1; done
took=$(awk "BEGIN { print $EPOCHREALTIME - $began }")
row "events into the chain, $events that wait" "$(awk "BEGIN { printf \"%.0f\", $events / $took }")/s (while $(awk "BEGIN { printf \"%.0f\", $events / ($inserted - $began) }")/s came in)" "" "" "$((($(cpu "$fabric_pid") - before) / events)) µs" ""

# --- the trail at its full size
say "filling $TRAIL events in 30 days"
sql "SET session_replication_role = replica; SET synchronous_commit = off; DO \$\$ BEGIN FOR d IN 1..30 LOOP PERFORM audit.ensure_day((now() AT TIME ZONE 'UTC')::date - d); END LOOP; END \$\$"
last=$(sql "SELECT max(seq) FROM audit.events")
for day in $(seq 30 -1 1); do
  sql "SET session_replication_role = replica; SET synchronous_commit = off;
       INSERT INTO audit.events (seq, day, id, at, event_type, action, outcome, actor, owner, door, request_id, target_type, target_id, server_id, detail, authentic, prev, hash)
       SELECT $last + (30 - $day) * ($TRAIL / 30) + n, (now() AT TIME ZONE 'UTC')::date - $day, gen_random_uuid(), now() - interval '$day days', 'data_change',
              'bench.' || n % 40, 'success', 'user:' || n % 5000, 'user:' || n % 5000, 'public', NULL, 'thing', 't' || n, 'server' || n % 300, '{}', true,
              decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex')
       FROM generate_series(1, $TRAIL / 30) n"
done
sql "ANALYZE audit.events"
for query in "limit=50" "limit=50&actor=user:42" "limit=50&action=bench.7" "limit=50&server_id=server9" "limit=50&owner=user:42&action=bench.2"; do
  load 4 "$token" GET "$url/api/mcp/audit?$query"
  row "audit query $query, 4 clients" "$rate/s" "$p50 ms" "$p99 ms" "$fabric_us µs" "$postgres_us µs"
done
say "export"
before=$(cpu "$fabric_pid") began=$EPOCHREALTIME
lines=$(call "$url/api/mcp/audit/export" | wc -l)
row "export of $lines events (JSONL)" "$(awk "BEGIN { printf \"%.0f\", $lines / ($EPOCHREALTIME - $began) }")/s" "" "" "$((($(cpu "$fabric_pid") - before) / lines)) µs" ""
day=$(sql "SELECT min(day) FROM audit.events")
newest=$(sql "SELECT max(seq) FROM audit.events WHERE day = '$day'")
sql "INSERT INTO audit.checkpoints (seq, at, purged_to, body, signature) VALUES ($newest, now(), $newest, 'bench', '')"
began=$EPOCHREALTIME
sql "SELECT audit.drop_day('$day')" >"$work/hello"
row "purge of a day ($((TRAIL / 30)) events)" "$(awk "BEGIN { printf \"%.2f\", $EPOCHREALTIME - $began }") s" "" "" "" ""

# --- beside the peer: one client, one request after the other
export WORK=$work/peer && mkdir -p "$WORK" && chmod 711 "$WORK"
printf '\n| one after the other, one client | mcp-fabric | of it PostgreSQL | mcp-contextforge-gateway | of it PostgreSQL | less CPU in the program |\n|---|---|---|---|---|---|\n'
if ! (bash "$here/vault_peer.sh" peer_install && bash "$here/vault_peer.sh" peer_start) >"$work/peer.log" 2>&1; then
  row "skipped: mcp-contextforge-gateway could not be installed or started" "" "" "" "" "" && exit 0
fi
say "beside mcp-contextforge-gateway"
peer_id=$(bash "$here/vault_peer.sh" peer_store one | jq -r .id)
mkdir "$work/own" && echo "$url" >"$work/own/url" && echo "$ticket" >"$work/own/token" && echo "$fabric_pid" >"$work/own/peer.pid" && echo "$postgres_pid" >"$work/own/db.pid"
access | jq -r .access_token >"$work/own/token"
measure() { WORK=$1 bash "$here/vault_peer.sh" peer_measure "${@:2}" | sed -E 's/.* cpu_us=([0-9]+) db_cpu_us=([0-9]+).*/\1 \2/'; }
beside() { # beside LABEL COUNT -- our method, path, body -- theirs
  local label=$1 count=$2 own own_db peer peer_db
  read -r own own_db < <(measure "$work/own" "$label" "$count" "$3" "$4" ${5:+"$5"})
  read -r peer peer_db < <(measure "$WORK" "$label" "$count" "$6" "$7" ${8:+"$8"})
  row "$label" "$own µs" "$own_db µs" "$peer µs" "$peer_db µs" "$(awk "BEGIN { printf \"%.1f\", $peer / $own }")×"
}
beside login "$LOGINS" POST /api/mcp/auth/login '{"email":"bench@example.com","password":"tundra anvil 93 quince"}' POST /v1/auth/email/login "$(bash "$here/vault_peer.sh" peer_login_body)"
beside "store" "$CALLS" POST /api/mcp/credentials '{"server_id":"everything","env_var":"KEY_@N@","value":"sk-0123456789abcdef-@N@"}' POST /v1/llm/providers "$(bash "$here/vault_peer.sh" peer_body @N@)"
beside "read metadata" "$CALLS" GET "/api/mcp/credentials/$user/fetch" "" GET "/v1/llm/providers/$peer_id"
