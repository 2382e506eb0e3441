#!/usr/bin/env bash
# The peer of vault.sh: mcp-contextforge-gateway, gunicorn + 1 uvicorn worker + PostgreSQL.
# WORK    folder for everything this script makes (venv, database cluster, pid files)
# PG_BIN  folder holding initdb/postgres; PG_USER the account to run them (PostgreSQL refuses root)
# KIND    what one stored secret is: llm (an API key), tool (a bearer token), a2a (an OAuth client secret)
WORK=${WORK:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
PG_BIN=${PG_BIN:-/usr/lib/postgresql/15/bin} PG_USER=${PG_USER:-postgres}
PEER_PIN=${PEER_PIN:-1.0.7} KIND=${KIND:-llm}
PEER_EMAIL=bench@example.com PEER_PASSWORD='Corr3ct-Horse-Battery-Stapl3!'

peer_install() {
    [ -x "$WORK/venv/bin/gunicorn" ] && return
    uv venv -q --python 3.11 "$WORK/venv"
    uv pip install -q --python "$WORK/venv/bin/python" "mcp-contextforge-gateway[postgres]==$PEER_PIN"
}

_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

peer_start() {
    local pg=$WORK/pg port dbport i
    port=$(_port) dbport=$(_port)
    rm -rf "$pg" && mkdir -p "$pg" && chown "$PG_USER" "$pg"
    runuser -u "$PG_USER" -- "$PG_BIN/initdb" -D "$pg/data" -A trust -E UTF8 --locale=C >"$WORK/db.log" 2>&1 || return 1
    ( cd "$pg" && exec runuser -u "$PG_USER" -- "$PG_BIN/pg_ctl" -D "$pg/data" -w -s -l "$pg/log" \
        -o "-p $dbport -c listen_addresses=127.0.0.1 -c unix_socket_directories=$pg" start ) || return 1
    head -1 "$pg/data/postmaster.pid" >"$WORK/db.pid"
    runuser -u "$PG_USER" -- "$PG_BIN/createdb" -h "$pg" -p "$dbport" peer || return 1

    _key() { python3 -c 'import secrets; print(secrets.token_urlsafe(48))'; }
    ( cd "$WORK" && exec env -u VIRTUAL_ENV \
        DATABASE_URL="postgresql+psycopg://$PG_USER@127.0.0.1:$dbport/peer" CACHE_TYPE=memory \
        ENVIRONMENT=production JWT_SECRET_KEY="$(_key)" AUTH_ENCRYPTION_SECRET="$(_key)" BASIC_AUTH_PASSWORD="$(_key)" \
        PLATFORM_ADMIN_EMAIL="$PEER_EMAIL" PLATFORM_ADMIN_PASSWORD="$PEER_PASSWORD" \
        ADMIN_REQUIRE_PASSWORD_CHANGE_ON_BOOTSTRAP=false TOKEN_EXPIRY=1440 \
        RATE_LIMITING_ENABLED=false LOG_LEVEL=ERROR SSRF_ALLOW_LOCALHOST=true ${PEER_ENV:-} \
        "$WORK/venv/bin/gunicorn" -k uvicorn.workers.UvicornWorker -w 1 --timeout 600 --no-control-socket \
        --access-logfile /dev/null --log-level warning -b "127.0.0.1:$port" mcpgateway.main:app \
        >"$WORK/peer.log" 2>&1 ) &
    echo $! >"$WORK/peer.pid"; echo "http://127.0.0.1:$port" >"$WORK/url"
    for i in $(seq 240); do
        curl -fs -o /dev/null "$(cat "$WORK/url")/health" && break
        kill -0 "$(cat "$WORK/peer.pid")" 2>/dev/null || return 1
        sleep 0.5
    done
    peer_login >"$WORK/token" || return 1
    echo "url $(cat "$WORK/url") pids $(cat "$WORK/peer.pid") dbpids $(cat "$WORK/db.pid")"   # roots: their children count too
}

peer_stop() {
    local f p
    for f in peer db; do
        [ -f "$WORK/$f.pid" ] || continue
        p=$(cat "$WORK/$f.pid"); kill -INT "$p" 2>/dev/null      # INT: quick stop for gunicorn, fast shutdown for PostgreSQL
        while kill -0 "$p" 2>/dev/null; do sleep 0.2; done
        rm -f "$WORK/$f.pid"
    done
}

peer_login_body() { printf '{"email":"%s","password":"%s"}' "$PEER_EMAIL" "$PEER_PASSWORD"; }
peer_path() { case $KIND in llm) echo /v1/llm/providers ;; tool) echo /v1/tools ;; a2a) echo /v1/a2a ;; esac; }
peer_body() {   # $1: what makes the name unique
    case $KIND in
    llm) printf '{"name":"bench-%s","provider_type":"openai_compatible","api_key":"sk-0123456789abcdef-%s"}' "$1" "$1" ;;
    tool) printf '{"tool":{"name":"bench-%s","url":"http://127.0.0.1:9/%s","integration_type":"REST","request_type":"POST","auth_type":"bearer","auth_token":"sk-0123456789abcdef-%s"}}' "$1" "$1" "$1" ;;
    a2a) printf '{"agent":{"name":"bench-%s","endpoint_url":"http://127.0.0.1:9/%s","agent_type":"generic","auth_type":"oauth","oauth_config":{"grant_type":"client_credentials","client_id":"bench","client_secret":"sk-0123456789abcdef-%s","token_url":"http://127.0.0.1:9/token"}}}' "$1" "$1" "$1" ;;
    esac
}

_call() { curl -fsS -H "Authorization: Bearer $(cat "$WORK/token" 2>/dev/null)" -H 'Content-Type: application/json' "$@"; }
peer_login() { curl -fsS -H 'Content-Type: application/json' -d "$(peer_login_body)" "$(cat "$WORK/url")/v1/auth/email/login" | python3 -c 'import json,sys; print(json.load(sys.stdin)["access_token"])'; }
peer_store() { _call -d "$(peer_body "$1")" "$(cat "$WORK/url")$(peer_path)"; }     # prints the entry; its "id" is for peer_read
peer_read() { _call "$(cat "$WORK/url")$(peer_path)${1:+/$1}"; }                    # with an id: that entry; without: the list

# peer_measure <label> <n> <method> <path> [body]: n requests one after another on one kept-alive connection (at most 50 s, after a warm-up);
# @N@ in the body becomes a number never used before. CPU is utime+stime of the processes above and all their children.
peer_measure() {
    python3 - "$WORK" "$@" <<'PY'
import http.client, os, sys, time
work, label, n, method, path, body = (sys.argv[1:] + [None])[:6]
rd = lambda f: open(os.path.join(work, f)).read().strip()
def cpu(root):
    kids, st = {}, {}
    for p in filter(str.isdigit, os.listdir("/proc")):
        try: f = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
        except OSError: continue
        st[p] = sum(map(int, f[11:15])); kids.setdefault(f[1], []).append(p)   # utime stime cutime cstime
    total, todo = 0, [root]
    while todo:
        p = todo.pop(); total += st[p]; todo += kids.get(p, [])
    return total / os.sysconf("SC_CLK_TCK") * 1e6
roots = rd("peer.pid"), rd("db.pid")
conn = http.client.HTTPConnection(rd("url")[7:], timeout=30)
head = {"Authorization": "Bearer " + rd("token"), "Content-Type": "application/json"}
if path.endswith("/login"): del head["Authorization"]
seen, lat, size, base = {}, [], [0], time.time_ns()
def once(i):
    t = time.perf_counter()
    conn.request(method, path, body and body.replace("@N@", str(base + i)).encode(), head)
    r = conn.getresponse(); size[0] = len(r.read())
    return r.status, time.perf_counter() - t
for i in range(-min(20, int(n) // 10), 0): once(i)                               # warm-up, not counted
c0, t0 = [cpu(r) for r in roots], time.perf_counter()
for i in range(int(n)):
    s, t = once(i); seen[s] = seen.get(s, 0) + 1; lat.append(t)
    if time.perf_counter() - t0 > 50: break
wall, (app, db) = time.perf_counter() - t0, [cpu(r) - c for r, c in zip(roots, c0)]
k = len(lat); lat.sort()
print(f"{label:12} n={k} status={seen} bytes={size[0]} cpu_us={app/k:.0f} db_cpu_us={db/k:.0f} p50_us={lat[k//2]*1e6:.0f} p99_us={lat[min(k-1, k*99//100)]*1e6:.0f} wall_s={wall:.1f}")
sys.exit(any(s not in (200, 201) for s in seen))
PY
}

peer_bench() {   # $1: stores and reads, $2: logins
    local id path; path=$(peer_path)
    id=$(peer_store "one-$(date +%s%N)" | python3 -c 'import json,sys; print(json.load(sys.stdin)["id"])') || return 1
    peer_measure login "${2:-100}" POST /v1/auth/email/login "$(peer_login_body)" &&
    peer_measure "store-$KIND" "${1:-500}" POST "$path" "$(peer_body @N@)" &&
    peer_measure "read-$KIND" "${1:-500}" GET "$path/$id" &&
    peer_measure "list-$KIND" "${1:-500}" GET "$path"
}

[ "${BASH_SOURCE[0]}" != "$0" ] || "$@"
