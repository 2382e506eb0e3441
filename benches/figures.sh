#!/usr/bin/env bash
# Measures what mcp-fabric needs: for a mirror of any size, for answers from memory, for searches, for a
# start, and at rest. Everything runs on this machine over loopback, in a temporary folder, and is stopped
# and removed at the end. Prints Markdown on standard output and its progress on standard error.
#
#   benches/figures.sh                               the figures of the issue, about a quarter of an hour
#   SERVERS=2000 VERSIONS=7500 benches/figures.sh    whether it still works, about four minutes
#
# Needs cargo, curl, jq, taskset, wrk, two cores and PostgreSQL's programs.
set -Eeuo pipefail

SERVERS=${SERVERS:-40000}
VERSIONS=${VERSIONS:-150000}
# Searches that are asked one after the other, and over several connections in each round.
QUERIES=${QUERIES:-1000}
ROUND_QUERIES=${ROUND_QUERIES:-7500}
# Rounds of load for each figure, and how long each lasts.
ROUNDS=${ROUNDS:-5}
ROUND_SECONDS=${ROUND_SECONDS:-5}
CONNECTIONS=${CONNECTIONS:-16}
STARTS=${STARTS:-5}
IDLE_SECONDS=${IDLE_SECONDS:-10}

repo=$(cd "$(dirname "$0")/.." && pwd)
# A page of real entries, for the memory at rest.
REAL_ENTRIES=${REAL_ENTRIES:-$repo/../shared/data/registry/servers.json}

work=$(mktemp -d)
# PostgreSQL does not run as root: its own user has to get through to the data folders.
chmod 711 "$work"
mkdir "$work/config"
ticks=$(getconf CLK_TCK)
# What else the machine has to do is in every figure of time.
load_before=$(cut -d ' ' -f 1 /proc/loadavg)
pids=()
clusters=()

say() { printf '%s\n' "$*" >&2; }
fail() { say "figures: $*"; exit 1; }
calc() { awk "BEGIN { printf \"%.${2:-3}f\", $1 }"; }
median() { printf '%s\n' "$@" | sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
worst() { printf '%s\n' "$@" | sort -g | tail -n 1; }

# --- Processes ---------------------------------------------------------------------------------------

stop() {
  local pid=$1 tries=0
  kill -TERM "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null && ((tries++ < 300)); do sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

finish() {
  local status=$? pid cluster
  trap - EXIT
  for pid in "${pids[@]}"; do stop "$pid"; done
  for cluster in "${clusters[@]}"; do
    # Only there when its mcp-fabric did not get to stop it.
    pid=$(head -n 1 "$cluster/postmaster.pid" 2>/dev/null || true)
    if [[ -n $pid && $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) == *"$cluster"* ]]; then
      kill -INT "$pid" || true
      while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    fi
    rm -rf "$(dirname "$cluster")"
    if [[ $cluster == /var/lib/mcp-fabric/* ]]; then rmdir --ignore-fail-on-non-empty /var/lib/mcp-fabric; fi
  done
  if ((status != 0)); then tail -n 5 "$work"/*.log >&2 || true; fi
  rm -rf "$work"
  exit "$status"
}
trap 'say "figures: line $LINENO failed: $BASH_COMMAND"' ERR
trap finish EXIT
trap 'exit 130' INT TERM

# Starts a program that says where it listens; gives `started` (its pid) and `address`.
start_listening() {
  local log=$work/$1.log
  shift
  # Another one of that name may have said where it listened.
  : >"$log"
  "$@" >"$log" 2>&1 &
  started=$!
  pids+=("$started")
  until address=$(sed -n 's/^listening on //p' "$log") && [[ -n $address ]]; do
    kill -0 "$started" 2>/dev/null || fail "could not start $1"
    sleep 0.05
  done
}

# Becomes mcp-fabric with a data folder; to be called in a shell of its own.
fabric_with() {
  local data=$1
  shift
  # Nothing of the caller's environment reaches it: DATABASE_URL, for one, would name another database.
  cd "$work" && exec env -i PATH="$PATH" HOME="$work" FABRIC_CONFIG_DIR="$work/config" FABRIC_DATA_DIR="$data" \
    FABRIC_LISTEN=127.0.0.1:0 FABRIC_UPSTREAM_URL="${upstream:-http://127.0.0.1:9}" FABRIC_UPSTREAM_RPS=100000 \
    FABRIC_SYNC_ON_START=false FABRIC_SYNC_CRON=off FABRIC_ACCESS_LOG=false FABRIC_RATE_LIMIT=0 \
    "$work/mcp-fabric" "$@"
}

# Starts mcp-fabric on a data folder; gives `fabric` (its pid), `url`, `postmaster` and `ready_seconds`
# (from the start of the process until it is ready).
start_fabric() {
  local data=$1 from=$EPOCHREALTIME
  fabric_with "$data" serve >>"$work/fabric.log" 2>&1 &
  fabric=$!
  pids+=("$fabric")
  until [[ -s $data/serve.json && $(<"$data/serve.json") =~ \"url\":\ *\"([^\"]+)\" ]]; do
    kill -0 "$fabric" 2>/dev/null || fail "mcp-fabric did not start"
    sleep 0.005
  done
  url=${BASH_REMATCH[1]}
  until curl -sf -o "$work/ready.json" "$url/health/ready"; do sleep 0.005; done
  ready_seconds=$(calc "$EPOCHREALTIME - $from")
  local cluster=$data/postgres/cluster
  if [[ ! -d $cluster ]]; then
    # Where mcp-fabric puts it when its user cannot reach the data folder.
    cluster=/var/lib/mcp-fabric/$(printf %s "$data" | sha256sum | cut -c 1-12)/cluster
  fi
  postmaster=$(head -n 1 "$cluster/postmaster.pid")
  [[ " ${clusters[*]} " == *" $cluster "* ]] || clusters+=("$cluster")
}

# CPU seconds of a process so far.
cpu_of() { sed 's/.*) //' "/proc/$1/stat" | awk -v ticks="$ticks" '{ print ($12 + $13) / ticks }'; }

# CPU seconds of PostgreSQL so far: of those of its processes that live, and of those that have ended.
cpu_of_postgres() {
  local child
  {
    sed 's/.*) //' "/proc/$postmaster/stat" | awk '{ print $12 + $13 + $14 + $15 }'
    for child in $(pgrep -P "$postmaster"); do
      # One that has just ended is no longer there.
      { sed 's/.*) //' "/proc/$child/stat" 2>/dev/null || true; } | awk '{ print $12 + $13 }'
    done
  } | awk -v ticks="$ticks" '{ sum += $1 } END { print sum / ticks }'
}

# A line of /proc/<pid>/status in megabytes: VmRSS (resident now) or VmHWM (the most so far).
megabytes() { awk -v key="$2:" '$1 == key { printf "%.1f", $2 / 1024 }' "/proc/$1/status"; }

# --- The table ---------------------------------------------------------------------------------------

# row FIGURE TARGET LIMIT MEASURED SHOWN: the last is what the table shows of the measured number.
row() {
  local verdict
  verdict=$(awk -v limit="$3" -v measured="$4" 'BEGIN {
    if (measured <= limit) print "met"
    else if (measured < 2 * limit) printf "missed by %.0f %%\n", 100 * (measured / limit - 1)
    else printf "missed, %.1f times the target\n", measured / limit }')
  printf '| %s | %s | %s | %s |\n' "$1" "$2" "$5" "$verdict" >>"$work/table"
  say "  $1: $5 ($verdict)"
}

# --- What is measured --------------------------------------------------------------------------------

build() {
  local targets
  say "building"
  # The benches first: with them cargo builds the program with their libraries' features.
  targets=$(cd "$repo" && cargo build --release --quiet --bench upstream --bench bare --message-format=json)
  for name in upstream bare; do
    cp "$(jq -r --arg name "$name" 'select(.target.name? == $name and .executable?) | .executable' <<<"$targets")" "$work/$name"
  done
  targets=$(cd "$repo" && cargo build --release --quiet --bin mcp-fabric --message-format=json)
  cp "$(jq -r 'select(.target.name? == "mcp-fabric" and .executable?) | .executable' <<<"$targets")" "$work/mcp-fabric"
}

# How long the newest run took, in seconds.
run_seconds() {
  (fabric_with "$1" --json sync history --limit 1) >"$work/history.json"
  local from to
  from=$(date -d "$(jq -r '.runs[0].started_at' "$work/history.json")" +%s.%N)
  to=$(date -d "$(jq -r '.runs[0].finished_at' "$work/history.json")" +%s.%N)
  calc "$to - $from"
}

# A full mirror of `versions` into a new fabric, which keeps running.
measure_sync() {
  local servers=$1 versions=$2 data=$3 fabric_cpu postgres_cpu per
  say "mirroring $versions versions of $servers servers"
  start_listening upstream "$work/upstream" --servers "$servers" --versions "$versions" --listen 127.0.0.1:0
  upstream=http://$address upstream_pid=$started
  start_fabric "$data"
  fabric_cpu=$(cpu_of "$fabric") postgres_cpu=$(cpu_of_postgres)
  (fabric_with "$data" sync run --mode full) >&2
  fabric_cpu=$(calc "$(cpu_of "$fabric") - $fabric_cpu") postgres_cpu=$(calc "$(cpu_of_postgres) - $postgres_cpu")
  sync_seconds=$(run_seconds "$data")
  sync_peak=$(megabytes "$fabric" VmHWM)
  per="1000 / $versions"
  cost=$(calc "($fabric_cpu + $postgres_cpu) * $per")
  printf '| %s | %s | %.1f | %s | %s | %s | %s |\n' "$versions" "$servers" "$sync_seconds" "$(calc "$sync_seconds * $per")" \
    "$(calc "$fabric_cpu * $per")" "$(calc "$postgres_cpu * $per")" "$sync_peak" >>"$work/scale"
}

measure_syncs() {
  local portion smallest data
  for portion in 15 3; do
    data=$work/part-$portion
    measure_sync "$((SERVERS / portion))" "$((VERSIONS / portion))" "$data"
    smallest=${smallest:-$cost}
    stop "$fabric"
    stop "$upstream_pid"
    rm -rf "$data"
  done
  measure_sync "$SERVERS" "$VERSIONS" "$work/data"
  row "full sync of $VERSIONS versions" "≤ 90 s" 90 "$sync_seconds" "$(calc "$sync_seconds" 1) s"
  row "the most resident during it" "≤ 250 MB" 250 "$sync_peak" "$sync_peak MB"
  row "CPU per version, against $((VERSIONS / 15)) versions" "flat (≤ 1.25 times)" 1.25 "$(calc "$cost / $smallest")" "$(calc "$cost / $smallest" 2) times"
}

measure_incremental() {
  local seconds=()
  for _ in 1 2 3; do
    (fabric_with "$work/data" sync run --mode incremental) >&2
    seconds+=("$(run_seconds "$work/data")")
  done
  row "incremental sync with nothing new" "≤ 1 s" 1 "$(worst "${seconds[@]}")" "$(worst "${seconds[@]}") s (worst of 3)"
}

# One round of load on the paths of a file, with a pause in milliseconds before each request; gives
# `requests` and `p99`. Further words stand before wrk.
load() {
  local address=$1 paths=$2 pause=$3 said
  shift 3
  said=$("$@" wrk -t 1 -c "$CONNECTIONS" -d "${ROUND_SECONDS}s" --timeout 10s -s "$repo/benches/load.lua" "$address" -- "$paths" "$pause" |
    grep '^requests=')
  [[ $said =~ requests=([0-9]+).*p99_ms=([0-9.]+)\ failed=([0-9]+) ]] || fail "wrk said: $said"
  requests=${BASH_REMATCH[1]} p99=${BASH_REMATCH[2]}
  ((BASH_REMATCH[3] == 0)) || fail "${BASH_REMATCH[3]} of the requests to $address failed"
}

# The CPU microseconds of one request to a server; gives `micros`. The server has one core and wrk another,
# and every server is asked at the same rate: waking a client that waits is charged to the server, and a
# faster server would keep its client awake.
cpu_per_request() {
  local pid=$1 before
  taskset -acp 0 "$pid" >/dev/null
  before=$(cpu_of "$pid")
  load "$2" "$3" 1 taskset -c 1
  micros=$(calc "1000000 * ($(cpu_of "$pid") - $before) / $requests" 2)
}

# An answer from memory against the same bytes from a bare handler, in turns.
measure_answer() {
  local figure=$1 path=$2 file=$work/answer.json ratios=() ours=() bares=()
  curl -sf -o "$file" "$url$path" || fail "no answer at $path"
  printf '%s\n' "$path" >"$work/paths"
  start_listening bare "$work/bare" --listen 127.0.0.1:0 "${path%%\?*}=$file"
  curl -sf "http://$address$path" | cmp - "$file" || fail "the bare server answers something else"
  for _ in $(seq "$ROUNDS"); do
    cpu_per_request "$fabric" "$url" "$work/paths"
    ours+=("$micros")
    cpu_per_request "$started" "http://$address" "$work/paths"
    bares+=("$micros")
    ratios+=("$(calc "${ours[-1]} / $micros")")
  done
  stop "$started"
  row "$figure ($(stat -c %s "$file") bytes), CPU against a bare handler" "≤ 2 times" 2 "$(median "${ratios[@]}")" \
    "$(calc "$(median "${ratios[@]}")" 2) times ($(calc "$(median "${ours[@]}")" 1) against $(calc "$(median "${bares[@]}")" 1) µs)"
}

measure_answers() {
  say "answers from memory"
  local name
  # A server whose document is of the usual size.
  name=$(curl -sf "$url/v0.1/servers?version=latest&limit=100" |
    jq -r '[.servers[].server | { name, off: (tojson | length - 1063 | fabs) }] | min_by(.off).name | @uri')
  measure_answer "a page of 30" "/v0.1/servers?limit=30"
  measure_answer "a document" "/v0.1/servers/$name/versions/latest"
}

# Searches that are all different, a file of paths for each round.
search_paths() {
  "$work/upstream" --servers "$SERVERS" --versions "$VERSIONS" --queries $((QUERIES + ROUNDS * ROUND_QUERIES)) >"$work/queries"
  shuf --random-source="$work/queries" "$work/queries" | jq -rR '"/api/mcp/servers?q=" + @uri' >"$work/all"
  head -n "$QUERIES" "$work/all" >"$work/paths"
  tail -n +$((QUERIES + 1)) "$work/all" | split -l "$ROUND_QUERIES" --numeric-suffixes=1 -a 2 - "$work/paths."
}

# Rounds of searches over several connections; gives the medians `cpu` (milliseconds a search) and `p99`.
search_rounds() {
  local round before after cpus=() p99s=()
  for round in $(seq -w 01 "$ROUNDS"); do
    before=$(calc "$(cpu_of "$fabric") + $(cpu_of_postgres)")
    load "$url" "$work/$(printf "$1" "$round")" 0
    after=$(calc "$(cpu_of "$fabric") + $(cpu_of_postgres)")
    cpus+=("$(calc "1000 * ($after - $before) / $requests")")
    p99s+=("$p99")
  done
  cpu=$(median "${cpus[@]}") p99=$(median "${p99s[@]}")
}

measure_searches() {
  local before after once times
  search_paths
  # Searches are to be fast right after a sync, and in a process that has answered none.
  say "searches, in a new process"
  stop "$fabric"
  start_fabric "$work/data"
  before=$(calc "$(cpu_of "$fabric") + $(cpu_of_postgres)")
  awk -v url="$url" '{ printf "url = \"%s%s\"\noutput = \"/dev/null\"\n", url, $0 }' "$work/paths" >"$work/curl"
  times=$(curl -sf -K "$work/curl" -w '%{time_total} %{url}\n')
  after=$(calc "$(cpu_of "$fabric") + $(cpu_of_postgres)")
  once=$(calc "1000 * ($after - $before) / $QUERIES")
  sort -rg <<<"$times" | awk 'NR <= 10 { sub(/.*q=/, "", $2); printf "| `%s` | %.1f |\n", $2, 1000 * $1 }' >"$work/slow"
  row "a search, $QUERIES different ones, one after the other: CPU with PostgreSQL" "≤ 5 ms" 5 "$once" "$(calc "$once" 2) ms"
  search_rounds "paths.%s"
  row "different searches, $CONNECTIONS connections without a pause: CPU with PostgreSQL" "≤ 5 ms" 5 "$cpu" "$(calc "$cpu" 2) ms"
  row "their p99" "≤ 20 ms" 20 "$p99" "$(calc "$p99" 1) ms"
  search_rounds "paths"
  row "the same $QUERIES searches over and over (from memory): their p99" "≤ 20 ms" 20 "$p99" "$(calc "$p99" 1) ms"
}

measure_ready() {
  say "starts"
  local seconds=()
  for _ in $(seq "$STARTS"); do
    stop "$fabric"
    start_fabric "$work/data"
    seconds+=("$ready_seconds")
  done
  row "ready with that database" "≤ 1 s" 1 "$(worst "${seconds[@]}")" "$(median "${seconds[@]}") s (worst of $STARTS: $(worst "${seconds[@]}") s)"
  database_megabytes=$(du -sm "$(dirname "${clusters[-1]}")" | cut -f 1)
  stop "$fabric"
  stop "$upstream_pid"
}

measure_rest() {
  local after_import after_start count
  if [[ ! -r $REAL_ENTRIES ]]; then
    printf '| resident at rest with real entries | ≤ 60 MB | skipped: REAL_ENTRIES names no file | – |\n' >>"$work/table"
    return
  fi
  count=$(jq '.servers | length' "$REAL_ENTRIES")
  say "at rest with $count real entries"
  start_fabric "$work/real"
  (fabric_with "$work/real" sync import "$(realpath "$REAL_ENTRIES")") >&2
  sleep "$IDLE_SECONDS"
  after_import=$(megabytes "$fabric" VmRSS)
  stop "$fabric"
  start_fabric "$work/real"
  sleep "$IDLE_SECONDS"
  after_start=$(megabytes "$fabric" VmRSS)
  stop "$fabric"
  row "resident at rest with $count real entries" "≤ 60 MB" 60 "$(worst "$after_import" "$after_start")" \
    "$after_import MB after importing them, $after_start MB after a start"
}

report() {
  echo "Machine: $(nproc) cores of $(lscpu | sed -n 's/^Model name: *//p'), $(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo)," \
    "Linux $(uname -r). $(date -u +%Y-%m-%d). Load before the run: $load_before."
  echo "$versions_line"
  echo "$SERVERS servers, $VERSIONS versions; the database takes $database_megabytes MB on disk."
  printf '\n| Figure | Target | Measured | |\n|---|---|---|---|\n'
  cat "$work/table"
  printf '\n| Versions | Servers | Full sync, s | s per 1,000 | CPU s per 1,000, mcp-fabric | CPU s per 1,000, PostgreSQL | Most resident, MB |\n|---|---|---|---|---|---|---|\n'
  cat "$work/scale"
  printf '\n| The ten slowest searches (each once) | ms |\n|---|---|\n'
  cat "$work/slow"
}

for program in cargo curl jq taskset wrk; do command -v "$program" >/dev/null || fail "$program is not installed"; done
build
measure_syncs
versions_line="$("$work/mcp-fabric" --version), $("/proc/$postmaster/exe" --version), $(rustc --version | cut -d ' ' -f 1,2), wrk $({ wrk -v || true; } 2>&1 | sed -n '1s/.*wrk \([^ ]*\).*/\1/p')."
measure_incremental
measure_answers
measure_searches
measure_ready
measure_rest
report
