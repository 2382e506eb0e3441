#!/usr/bin/env bash
# Measures the gateway of mcp-fabric beside mcp-proxy and mcp-hub in the same run: calls of one tool of server-everything
# through each, what each spends of CPU for a call, and how long a call takes; a list with one server of ten that hangs;
# memory over many calls and sessions. Everything listens on loopback, works in a temporary folder and is removed at the
# end. Prints Markdown on standard output and its progress on standard error.
#
#   benches/gateway.sh PROGRAM            the figures, about ten minutes; PROGRAM is a built mcp-fabric
#   QUICK=1 benches/gateway.sh PROGRAM    whether it still works, about two minutes
#
# Needs curl, jq, node, npm, python3, cargo, PostgreSQL's programs and the registries that npm and cargo use. MCP_PROXY names
# an mcp-proxy (0.6 of crates.io) that is built already, else one is built, which takes a while.
set -Eeuo pipefail
if [[ ${QUICK:-0} == 1 ]]; then figures="1 2000 1000 2000 50"; else figures="5 20000 5000 100000 1000"; fi
read -r ROUNDS CALLS SEQUENTIAL MANY SESSIONS <<<"$figures"
PACKAGE=@modelcontextprotocol/server-everything

[[ $# == 1 && -x $1 ]] || { echo "usage: benches/gateway.sh PROGRAM" >&2 && exit 2; }
program=$(realpath "$1")
repo=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
chmod 711 "$work"
ticks=$(getconf CLK_TCK) load_before=$(cut -d ' ' -f 1 /proc/loadavg)
for name in $(compgen -e FABRIC_) DATABASE_URL; do unset "$name"; done
pids=()
say() { printf '%s\n' "$*" >&2; }
calc() { awk "BEGIN { printf \"%.${2:-2}f\", $1 }"; }
median() { printf '%s\n' "$@" | sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
finish() {
  local status=$? pid tries
  trap - EXIT ERR
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || continue
    for tries in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
  done
  if ((status != 0)); then tail -n 5 "$work"/*.log >&2 || true; fi
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'say "gateway: line $LINENO failed: $BASH_COMMAND"' ERR
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
answers() { local tries; for tries in $(seq 600); do curl -s -o /dev/null "$1" && return; sleep 0.1; done; say "nothing answers at $1"; return 1; }
# The CPU of a process itself, in milliseconds; what it started is not in it.
cpu() { awk -v ticks="$ticks" '{ print ($14 + $15) * 1000 / ticks }' "/proc/$1/stat"; }
resident() { awk '/VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$1/status"; }

say "building"
cargo build --release --quiet -p calls --manifest-path "$repo/Cargo.toml"
calls=$(cargo build --release --quiet -p calls --manifest-path "$repo/Cargo.toml" --message-format=json | jq -r 'select(.target.name == "calls") | .executable' | tail -n 1)
mkdir "$work/npm"
(cd "$work/npm" && npm install --no-audit --no-fund --no-update-notifier "$PACKAGE" mcp-hub@4.2.1 >"$work/npm.log" 2>&1)
script=$work/npm/node_modules/$PACKAGE/dist/index.js
if [[ -z ${MCP_PROXY:-} ]]; then
  cargo install --quiet --root "$work/proxy" --no-default-features --version 0.6.0 mcp-proxy
  MCP_PROXY=$work/proxy/bin/mcp-proxy
fi

say "mcp-fabric"
port=$(free_port)
FABRIC_SYNC_ON_START=false FABRIC_SYNC_CRON=off FABRIC_ACCESS_LOG=false FABRIC_RATE_LIMIT=0 INSTALL_ON_START=off FABRIC_LOG=warn \
  FABRIC_CACHE_DIR="$work/cache" "$program" --listen "127.0.0.1:$port" --data-dir "$work/data" >"$work/fabric.out" 2>"$work/fabric.log" &
fabric=$! pids+=("$!") base=http://127.0.0.1:$port
for _ in $(seq 300); do [[ -f $work/data/serve.json ]] && break; kill -0 "$fabric"; sleep 0.1; done
operator=$(<"$work/data/operator.token")
api() { curl -sf -X "$1" "$base$2" -H "Authorization: Bearer $operator" -H 'Content-Type: application/json' ${3:+-d "$3"}; }
# install NAME: server-everything under a name, started.
install() {
  local job state
  job=$(api POST /api/mcp/packages/install "{\"name\":\"$PACKAGE\",\"serverName\":\"$1\",\"enabled\":true}" | jq -r .job_id)
  for _ in $(seq 1200); do
    state=$(api GET "/api/mcp/jobs/$job" | jq -r .status)
    [[ $state == complete ]] && break
    [[ $state == failed ]] && { say "the install failed"; return 1; }
    sleep 0.2
  done
  for _ in $(seq 300); do
    [[ $(api GET '/api/mcp/instances?limit=200' | jq -r --arg id "$1" '[.instances[] | select(.server_id == $id and .state == "RUNNING")] | length') == 1 ]] && return
    sleep 0.1
  done
  say "$1 does not run"; return 1
}
install everything

say "mcp-proxy, mcp-hub"
port=$(free_port)
printf '[proxy]\nname = "bench"\nseparator = "/"\n[proxy.listen]\nhost = "127.0.0.1"\nport = %s\n[[backends]]\nname = "everything"\ntransport = "stdio"\ncommand = "node"\nargs = ["%s"]\n[observability]\nlog_level = "warn"\n' "$port" "$script" >"$work/proxy.toml"
"$MCP_PROXY" --config "$work/proxy.toml" >"$work/proxy.log" 2>&1 &
proxy=$! pids+=("$!") proxy_url=http://127.0.0.1:$port/
answers "$proxy_url"
port=$(free_port)
printf '{"mcpServers":{"everything":{"command":"node","args":["%s"]}}}' "$script" >"$work/hub.json"
HOME=$work XDG_DATA_HOME=$work node "$work/npm/node_modules/mcp-hub/dist/cli.js" --port "$port" --config "$work/hub.json" >"$work/hub.log" 2>&1 &
hub=$! pids+=("$!") hub_url=http://127.0.0.1:$port/api/servers/tools
answers "http://127.0.0.1:$port/api/health"
for _ in $(seq 100); do curl -s "http://127.0.0.1:$port/api/health" | grep -q '"connected"' && break; sleep 0.2; done
hub_body='{"server_name":"everything","tool":"echo","arguments":{"message":"hello"}}'

# load WHO SESSIONS CALLS: one line of JSON.
load() {
  case $1 in
    fabric) TOKEN=$operator "$calls" mcp "$base/mcp/s/everything" "$2" "$3" echo ;;
    proxy) "$calls" mcp "$proxy_url" "$2" "$3" everything/echo ;;
    hub) "$calls" post "$hub_url" "$2" "$3" "$hub_body" ;;
    direct) "$calls" stdio "$3" echo node "$script" ;;
  esac
}
declare -A pid_of=([fabric]=$fabric [proxy]=$proxy [hub]=$hub) rates=() spent=() p50=()
for who in fabric proxy hub direct; do load "$who" 1 500 >/dev/null; done
for round in $(seq "$ROUNDS"); do
  say "round $round of $ROUNDS"
  for who in fabric proxy hub; do
    before=$(cpu "${pid_of[$who]}")
    line=$(load "$who" 8 "$CALLS")
    after=$(cpu "${pid_of[$who]}")
    rates[$who]+="$(jq -r .per_second <<<"$line") "
    spent[$who]+="$(calc "($after - $before) / $(jq -r .calls <<<"$line")" 4) "
  done
  for who in fabric proxy hub direct; do p50[$who]+="$(load "$who" 1 "$SEQUENTIAL" | jq -r '.p50_us / 1000') "; done
done
each() { local -n all=$1; median ${all[$2]}; }
row() { printf '| %s | %s | %s | %s |\n' "$1" "$2" "$3" "$4"; }
verdict() { awk "BEGIN { exit !($1) }" && echo met || echo "missed, $2 times the target"; }

model=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)
printf 'Machine: %s cores of %s, Linux %s. %s. Load before the run: %s. Medians of %s rounds.\n' "$(nproc)" "$model" "$(uname -r)" "$(date +%F)" "$load_before" "$ROUNDS"
printf '%s, mcp-proxy 0.6.0 (without its optional features), mcp-hub 4.2.1, server-everything %s, node %s.\n\n' \
  "$("$program" --version)" "$(jq -r .version "$work/npm/node_modules/$PACKAGE/package.json")" "$(node --version)"
printf '| Figure | Target | mcp-fabric | Others | |\n|---|---|---|---|---|\n'
own=$(each spent fabric)
row "CPU of the gateway for a \`tools/call\`, 8 sessions, with tokens and audit" "≤ 0.15 ms | $own ms" "mcp-proxy $(each spent proxy) ms, mcp-hub $(each spent hub) ms (neither has tokens or a trail)" "$(verdict "$own <= 0.15" "$(calc "$own / 0.15")")"
own=$(each rates fabric) other=$(each rates proxy)
row "calls a second, 8 sessions" "≥ mcp-proxy | $own" "mcp-proxy $other, mcp-hub $(each rates hub)" "$(verdict "$own >= $other" "$(calc "$own / $other")")"
own=$(each p50 fabric)
row "p50 of one session's calls, one after the other" "≤ 0.5 ms | $own ms" "mcp-proxy $(each p50 proxy) ms, mcp-hub $(each p50 hub) ms, over its own pipes $(each p50 direct) ms" "$(verdict "$own <= 0.5" "$(calc "$own / 0.5")")"

say "memory"
TOKEN=$operator "$calls" mcp "$base/mcp/s/everything" 8 2000 echo >/dev/null
TOKEN=$operator "$calls" churn "$base/mcp/s/everything" 50 >/dev/null
before=$(resident "$fabric")
TOKEN=$operator "$calls" mcp "$base/mcp/s/everything" 8 "$MANY" echo >/dev/null
after=$(resident "$fabric")
TOKEN=$operator "$calls" churn "$base/mcp/s/everything" "$SESSIONS" >/dev/null
last=$(resident "$fabric")
row "resident before, after $MANY calls, and after $SESSIONS sessions more" "flat, ≤ 100 MB | $before, $after, $last MB" "–" "$(verdict "$last <= 100 && $last <= $before * 1.1" "$(calc "$last / 100")")"

say "one of ten hangs"
for number in $(seq 9); do install "many-$number"; done
session=$(curl -s -D - -o /dev/null "$base/mcp" -H "Authorization: Bearer $operator" -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' \
  -d '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}' | tr -d '\r' | sed -n 's/^mcp-session-id: //Ip')
list() {
  curl -s -w '\n%{time_total}' "$base/mcp" -H "Authorization: Bearer $operator" -H "Mcp-Session-Id: $session" -H 'MCP-Protocol-Version: 2025-11-25' \
    -H 'Content-Type: application/json' -H 'Accept: application/json' -d '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
}
hanging=$(api GET '/api/mcp/instances?limit=200' | jq -r '.instances[] | select(.server_id == "many-9" and .state == "RUNNING") | .pid')
kill -STOP "$hanging"
first=$(list) && second=$(list)
kill -CONT "$hanging"
served() { sed '$d' <<<"$1" | jq -r '[.result.tools[].name | split("__")[0]] | unique | length'; }
took() { tail -n 1 <<<"$1"; }
row "\`tools/list\` of ten servers, one of which hangs: first, again" "≤ 1 s, nine served, then at once | $(took "$first") s ($(served "$first") served), $(took "$second") s" "–" \
  "$(verdict "$(took "$first") <= 1.1 && $(served "$first") == 9 && $(took "$second") <= 0.1" 1)"
