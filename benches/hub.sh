#!/usr/bin/env bash
# Measures what many people at once cost a fabric: reads of configurations, also with a hundred thousand of them; how soon a
# thousand followers hear of a change, and what they take; one action over many servers. Everything listens on loopback,
# works in a temporary folder and is removed at the end. Prints Markdown on standard output and its progress on standard
# error.
#
#   benches/hub.sh PROGRAM            the figures, about five minutes; PROGRAM is a built mcp-fabric
#   QUICK=1 benches/hub.sh PROGRAM    whether it still works, about a minute
#   PARTS="followers many" benches/hub.sh PROGRAM    some of the figures; there is `reads`, too
#
# Needs jq, python3, psql and PostgreSQL's programs, node, cargo, and the registry that npm is configured to use.
set -Eeuo pipefail
if [[ ${QUICK:-0} == 1 ]]; then figures="100 10 200 10 2000"; else figures="1000 60 5000 200 100000"; fi
read -r FOLLOWERS EVENTS READS SERVERS CONFIGURATIONS <<<"$figures"

[[ $# == 1 && -x $1 ]] || { echo "usage: benches/hub.sh PROGRAM" >&2 && exit 2; }
program=$(realpath "$1")
repo=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
chmod 711 "$work"
for name in $(compgen -e FABRIC_) DATABASE_URL; do unset "$name"; done
pids=()
say() { printf '%s\n' "$*" >&2; }
finish() {
  local status=$? pid
  trap - EXIT ERR
  for pid in $(printf '%s\n' "${pids[@]}" | tac); do
    kill -TERM "$pid" 2>/dev/null || continue
    for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
  done
  if ((status != 0)); then tail -n 5 "$work"/*.log >&2 || true; fi
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'say "hub: line $LINENO failed: $BASH_COMMAND"' ERR
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

say "building"
cargo build --release --quiet -p calls --manifest-path "$repo/Cargo.toml"
calls=$(cargo build --release --quiet -p calls --manifest-path "$repo/Cargo.toml" --message-format=json | jq -r 'select(.target.name == "calls") | .executable' | tail -n 1)

# A server that does as little as a server can.
cat >"$work/server.py" <<'PY'
import json, sys
for line in sys.stdin:
    said = json.loads(line)
    if "id" in said:
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "bench", "version": "1"}} if said["method"] == "initialize" else {"tools": []}
        print(json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": result}), flush=True)
PY
chmod 644 "$work/server.py"

say "a database"
bin=$(dirname "$(readlink -f "$(ls -d /usr/lib/postgresql/*/bin/postgres | sort -V | tail -n 1)")")
as_postgres() { if [[ $(id -u) == 0 ]]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi; }
mkdir "$work/pg"
[[ $(id -u) != 0 ]] || chown postgres "$work/pg"
as_postgres "$bin/initdb" -D "$work/pg/data" -A trust -E UTF8 --locale=C >"$work/initdb.log" 2>&1
database=$(free_port)
(cd "$work/pg" && as_postgres "$bin/pg_ctl" -D "$work/pg/data" -w -s -l "$work/pg/log" -o "-p $database -c listen_addresses=127.0.0.1 -c unix_socket_directories=$work/pg" start)
pids+=("$(head -n 1 "$work/pg/data/postmaster.pid")")
sql() { psql -qAt -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$database" -U "${2:-postgres}" "${3:-fabric}" -c "$1"; }
sql "CREATE ROLE fabric LOGIN CREATEROLE" postgres postgres
sql "CREATE DATABASE fabric OWNER fabric" postgres postgres

say "mcp-fabric"
port=$(free_port)
ulimit -n 8192
FABRIC_SYNC_ON_START=false FABRIC_SYNC_CRON=off FABRIC_ACCESS_LOG=false FABRIC_RATE_LIMIT=0 INSTALL_ON_START=off FABRIC_LOG=warn FABRIC_MAX_CONNECTIONS=4000 \
  FABRIC_MAX_INSTANCES_PER_USER=300 FABRIC_MAX_INSTANCES=300 DATABASE_URL="postgres://fabric@127.0.0.1:$database/fabric" FABRIC_CACHE_DIR="$work/cache" \
  CREDENTIAL_ENCRYPTION_KEY=$("$program" credentials new-key) JWT_SECRET_KEY=$("$program" credentials new-key) "$program" --listen "127.0.0.1:$port" --data-dir "$work/data" >"$work/fabric.out" 2>"$work/fabric.log" &
fabric=$! pids+=("$!") base=http://127.0.0.1:$port
for _ in $(seq 300); do [[ -f $work/data/serve.json ]] && break; kill -0 "$fabric"; sleep 0.1; done
operator=$(<"$work/data/operator.token")
TOKEN=$operator python3 "$repo/benches/hub.py" "$base" "$work" "$fabric" "$database" "$calls" "$FOLLOWERS" "$EVENTS" "$READS" "$SERVERS" "$CONFIGURATIONS"
