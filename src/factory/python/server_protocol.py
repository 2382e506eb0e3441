# MCP over standard input and output: revision 2026-07-28, where each request says all of itself, and those before it, which
# begin with `initialize`. Nothing but messages is written to standard output.

# How long calls may go on once the client has gone, in seconds.
PATIENCE = 1.5


def failure(key, error):
    data = {} if error.data is None else {"data": error.data}
    return {"jsonrpc": "2.0", "id": key, "error": {"code": error.code, "message": str(error), **data}}


class Connection:
    def __init__(self, server):
        self.server, self.revision, self.cancelled, self.running, self.lock = server, None, set(), set(), threading.Lock()

    def write(self, message):
        with self.lock:
            sys.stdout.buffer.write(compact(message).encode("utf-8", "surrogatepass") + b"\n")
            sys.stdout.buffer.flush()

    def take(self, line):
        if not line.strip():
            return
        try:
            message = json.loads(line)
        except ValueError:
            return self.write(failure(None, RpcError(-32700, "Parse error: it is not JSON")))
        except RecursionError:
            return self.write(failure(None, RpcError(-32700, "Parse error: it is nested too deeply")))
        if isinstance(message, list):
            if self.revision != "2025-03-26" or not message:
                return self.write(failure(None, RpcError(-32600, "Invalid request: batches are not part of this revision")))
            answers = [answer for answer in map(self.answer, message) if answer is not None]
            return self.write(answers) if answers else None
        answer = self.answer(message)
        if answer is not None:
            self.write(answer)

    def answer(self, message):
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            return failure(None, RpcError(-32600, "Invalid request"))
        key, method, params = message.get("id"), message.get("method"), message.get("params", {})
        if not isinstance(method, str):
            return None if "result" in message or "error" in message else failure(None, RpcError(-32600, "Invalid request"))
        if "id" not in message:
            if method == "notifications/cancelled" and isinstance(params, dict):
                key = params.get("requestId")
                if isinstance(key, (str, int, float)) and key in self.running:
                    self.cancelled.add(key)
            return None
        if isinstance(key, bool) or not isinstance(key, (str, int, float)):
            return failure(None, RpcError(-32600, "Invalid request: its id is neither text nor number"))
        self.running.add(key)
        try:
            if not isinstance(params, dict):
                raise RpcError(-32602, "Invalid params: they must be an object")
            answer = {"jsonrpc": "2.0", "id": key, "result": self.request(method, params)}
        except RpcError as error:
            answer = failure(key, error)
        except Exception as error:  # What went wrong inside is told to the log, and not to the client.
            print(f"{method} failed: {type(error).__name__}", file=sys.stderr, flush=True)
            answer = failure(key, RpcError(-32603, "Internal error"))
        self.running.discard(key)
        if key in self.cancelled:
            self.cancelled.discard(key)
            return None
        return answer

    def request(self, method, params):
        modern = self.is_modern(method, params)
        done = (lambda result: {"resultType": "complete", **result}) if modern else lambda result: result
        listed = lambda result: done({"ttlMs": 3_600_000, "cacheScope": "public", **result} if modern else result)
        if method == "server/discover" and modern:
            about = {f"{PREFIX}serverInfo": self.about()}
            return listed({"supportedVersions": [MODERN, *LEGACY], "capabilities": {"tools": {}}, **self.instructions(), "_meta": about})
        if method == "initialize" and not modern:
            return self.initialized(params)
        if method == "ping" and not modern:
            return {}
        if method == "tools/list":
            return listed(self.tools(params))
        if method == "tools/call":
            return done(self.called(params))
        raise RpcError(-32601, f"Method not found: {method}")

    @staticmethod
    def is_modern(method, params):
        meta = params.get("_meta") if isinstance(params.get("_meta"), dict) else {}
        version = meta.get(f"{PREFIX}protocolVersion")
        if version is None and method != "server/discover":
            return False
        if not isinstance(version, str) or not isinstance(meta.get(f"{PREFIX}clientCapabilities"), dict):
            raise RpcError(-32602, f"Invalid params: _meta has to have {PREFIX}protocolVersion and {PREFIX}clientCapabilities")
        if version != MODERN:
            raise RpcError(-32022, "Unsupported protocol version", {"supported": [MODERN, *LEGACY], "requested": version[:64]})
        return True

    def about(self):
        return {name: self.server[name] for name in ("name", "version", "title") if name in self.server}

    def instructions(self):
        return {"instructions": self.server["instructions"]} if "instructions" in self.server else {}

    def initialized(self, params):
        asked = params.get("protocolVersion")
        if not isinstance(asked, str):
            raise RpcError(-32602, "Invalid params: protocolVersion is missing")
        self.revision = asked if asked in LEGACY else LEGACY[0]
        return {"protocolVersion": self.revision, "capabilities": {"tools": {}}, "serverInfo": self.about(), **self.instructions()}

    def tools(self, params):
        tools, cursor = self.server["tools"], params.get("cursor")
        start = 0 if cursor is None else int(cursor) if isinstance(cursor, str) and cursor.isdigit() else -1
        if start < 0 or (start > 0 and start >= len(tools)):
            raise RpcError(-32602, "Invalid params: no page has this cursor")
        shown = [{name: value for name, value in tool.items() if name != "action"} for tool in tools[start : start + PAGE]]
        return {"tools": shown, **({"nextCursor": str(start + PAGE)} if start + PAGE < len(tools) else {})}

    def called(self, params):
        tool = next((one for one in self.server["tools"] if one["name"] == params.get("name")), None)
        if tool is None:
            raise RpcError(-32602, f"Unknown tool: {str(params.get('name'))[:128]}")
        args = params.get("arguments", {})
        if not isinstance(args, dict):
            raise RpcError(-32602, "Invalid params: arguments must be an object")
        wrong = problems(args, tool["inputSchema"])
        if wrong:
            return failed("\n".join(wrong))
        try:
            return call(self.server, tool, args)
        except ToolError as error:
            return failed(str(error))


def main(server):
    connection = Connection(server)
    pool = ThreadPoolExecutor(max_workers=32)
    waiting = []
    for line in sys.stdin.buffer:
        waiting = [one for one in waiting if not one.done()]
        if b'"tools/call"' in line:
            waiting.append(pool.submit(connection.take, line))
        else:
            connection.take(line)
    deadline = time.monotonic() + PATIENCE
    while any(not one.done() for one in waiting) and time.monotonic() < deadline:
        time.sleep(0.01)
    with connection.lock:
        # What still runs has nobody to answer.
        os._exit(0)
