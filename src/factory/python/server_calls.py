# Credentials: from the environment, when they are needed

TOKENS = {}


def variables_of(scheme):
    kind = scheme["kind"]
    if kind == "basic":
        return [scheme["username_env"], scheme["password_env"]]
    if kind == "client_credentials":
        return [scheme["client_id_env"], scheme["client_secret_env"]]
    return [scheme["env"]]


def secret_of(name):
    """What is set; nothing of it is said where it cannot be sent."""
    value = variable(name) or ""
    if any(ord(char) > 255 or ord(char) == 127 or (ord(char) < 32 and char != "\t") for char in value):
        raise ToolError(f"{name} has characters in it that no request can have: set it anew.")
    return value


def is_set(scheme):
    given = all(variable(name) is not None for name in variables_of(scheme))
    return given or (scheme["kind"] == "client_credentials" and variable(scheme["env"]) is not None)


def basic(username, password):
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def credentials(schemes, security, deadline):
    """Headers, query and cookies of the first set of schemes that the environment satisfies; the variables that they came from,
    and what nobody is to be told, each with what is told instead."""
    sets = [[schemes[name] for name in names if name in schemes] for names in security]
    chosen = next((one for one in sets if one and all(map(is_set, one))), None)
    if chosen is None and [] in sets:
        chosen = []
    headers, query, cookies, secrets = [], [], [], []
    if chosen is None:
        if not sets:
            return headers, query, cookies, [], secrets
        ways = dict.fromkeys(" and ".join(name for scheme in one for name in variables_of(scheme)) for one in sets)
        raise ToolError(f"This operation needs credentials. Set {', or '.join(ways)} in the environment of this server.")
    for scheme in chosen:
        kind = scheme["kind"]
        if kind == "api_key":
            key = secret_of(scheme["env"])
            secrets.append((key, f"[{scheme['env']}]"))
            pair = f"{encoded(scheme['name'])}={encoded(key)}"
            if scheme["in"] == "header":
                headers.append((scheme["name"], key))
            else:
                (query if scheme["in"] == "query" else cookies).append(pair)
        elif kind == "basic":
            both = basic(secret_of(scheme["username_env"]), secret_of(scheme["password_env"]))
            label = f"[{scheme['password_env']}]"
            secrets += [(variable(scheme["password_env"]) or "", label), (both[len("Basic ") :], label)]
            headers.append(("Authorization", both))
        else:
            given = secret_of(scheme["env"]) or (token(scheme, deadline) if kind == "client_credentials" else "")
            secrets.append((given, "[token]" if kind == "client_credentials" else f"[{scheme['env']}]"))
            if kind == "client_credentials":
                secrets.append((variable(scheme["client_secret_env"]) or "", f"[{scheme['client_secret_env']}]"))
            headers.append(("Authorization", f"Bearer {given}"))
    return headers, query, cookies, [name for scheme in chosen for name in variables_of(scheme)], secrets


def token(scheme, deadline):
    """A token of the client credentials grant (RFC 6749, section 4.4), kept until shortly before it ends."""
    key = (scheme["token_url"], scheme["client_id_env"], tuple(scheme["scopes"]))
    kept = TOKENS.get(key)
    if kept and kept[1] > time.time():
        return kept[0]
    fields = {"grant_type": "client_credentials", **({"scope": " ".join(scheme["scopes"])} if scheme["scopes"] else {})}
    url = urllib.parse.urlsplit(scheme["token_url"])
    names = (variable(scheme["client_id_env"]) or "", variable(scheme["client_secret_env"]) or "")
    headers = [("Authorization", basic(encoded(names[0]), encoded(names[1]))), ("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")]
    status, _, content, _ = send("POST", url, (url.path or "/") + (f"?{url.query}" if url.query else ""), headers, urllib.parse.urlencode(fields).encode(), deadline)
    try:
        answer = json.loads(content) if 200 <= status < 300 else {}
    except ValueError:
        answer = {}
    answer = answer if isinstance(answer, dict) else {}
    if not isinstance(answer.get("access_token"), str):
        raise ToolError(f"No token: {url.hostname} answered {status}. Check {scheme['client_id_env']} and {scheme['client_secret_env']}.")
    seconds = answer.get("expires_in") if type_of(answer.get("expires_in")) == "number" else 300
    TOKENS[key] = (answer["access_token"], time.time() + max(0, seconds - 30))
    return answer["access_token"]


# Calls


def timeout():
    try:
        seconds = float(variable("MCP_TIMEOUT_SECONDS") or "30")
    except ValueError:
        seconds = 30
    return seconds if seconds > 0 else 30


def base_of(bases, number):
    base = bases[number] if number < len(bases) else {"url": None, "env": "the address"}
    given = variable(base["env"]) or base["url"]
    if given is None:
        raise ToolError(f"The address of the API is not known. Set {base['env']} in the environment of this server.")
    url = urllib.parse.urlsplit(given)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ToolError(f"{base['env']} is not an address: it has to look like https://host/path.")
    if url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1") and variable("MCP_ALLOW_HTTP") != "1":
        raise ToolError(f"{url.netloc} is not asked without encryption. Set {base['env']} to an https address, or MCP_ALLOW_HTTP=1.")
    return url


def send(method, url, target, headers, content, deadline):
    """Status, headers, content and whether it is whole."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connect = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    options = {"context": ssl.create_default_context()} if url.scheme == "https" else {}
    connection = connect(url.hostname, url.port, timeout=left, **options)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value.encode("latin-1"))
        if content is not None or method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(len(content or b"")))
        connection.endheaders(content)
        response = connection.getresponse()
        received = bytearray()
        while len(received) <= MOST_BYTES:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left)
            chunk = response.read1(1 << 16)
            if not chunk:
                break
            received += chunk
        return response.status, response.headers, bytes(received), len(received) <= MOST_BYTES
    finally:
        connection.close()


def exchange(server, action, parts, accept, shape):
    path, query, headers, cookies, body = parts
    base = base_of(server["bases"], action["base"])
    deadline = time.monotonic() + timeout()
    try:
        own_headers, own_query, own_cookies, sources, secrets = credentials(server["auth"], action["security"], deadline)
        all_headers = [("Accept", accept), ("User-Agent", f"{server['name']}/{server['version']}"), *headers, *own_headers]
        if cookies or own_cookies:
            all_headers.append(("Cookie", "; ".join(cookies + own_cookies)))
        if body is not None:
            all_headers.append(("Content-Type", body[0]))
        search = "&".join(pair for pair in [base.query, *query, *own_query] if pair)
        target = (base.path.rstrip("/") + path or "/") + (f"?{search}" if search else "")
        status, answered, content, whole = patiently(action.get("method", "POST"), base, target, all_headers, body and body[1], deadline)
    except (TimeoutError, socket.timeout):
        raise ToolError(f"{base.netloc} did not answer within {timeout():g} s (MCP_TIMEOUT_SECONDS).") from None
    except (OSError, http.client.HTTPException) as error:
        raise ToolError(f"{base.netloc} could not be reached: {error}.") from None
    if status == 401:
        TOKENS.clear()
    return told(status, answered, content, whole, (sources, secrets), shape)


def patiently(method, base, target, headers, content, deadline):
    for attempt in range(3):
        status, answered, received, whole = follow(method, base, target, headers, content, deadline)
        if attempt == 2 or status not in (429, 502, 503, 504) or method not in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
            break
        after = answered.get("Retry-After")
        wait = float(after) if after and after.isdigit() else 0.25 * 2**attempt
        if wait > 10 or time.monotonic() + wait > deadline:
            break
        time.sleep(wait)
    return status, answered, received, whole


def follow(method, base, target, headers, content, deadline):
    """Redirects are followed on the same origin only: credentials and arguments are for this API."""
    for _ in range(6):
        status, answered, received, whole = send(method, base, target, headers, content, deadline)
        location = answered.get("Location")
        if status not in (301, 302, 303, 307, 308) or location is None:
            return status, answered, received, whole
        here = urllib.parse.urlunsplit((base.scheme, base.netloc, target, "", ""))
        next_url = urllib.parse.urlsplit(urllib.parse.urljoin(here, location))
        if (next_url.scheme, next_url.netloc) != (base.scheme, base.netloc):
            raise ToolError(f"The API sends this request on to {next_url.scheme}://{next_url.netloc}, which it was not meant for.")
        if status == 303 or (status < 303 and method == "POST"):
            method, content, headers = "GET", None, [pair for pair in headers if pair[0] != "Content-Type"]
        target = (next_url.path or "/") + (f"?{next_url.query}" if next_url.query else "")
    raise ToolError("The API sends this request in circles.")


HINTS = {
    400: "Change the arguments as it says, and call again.",
    422: "Change the arguments as it says, and call again.",
    404: "There is no such thing: check the identifiers in the arguments.",
}


def hint(status, answered, sources):
    names = " and ".join(sources)
    if status == 401:
        return f"It does not accept {names}: have it checked." if names else "It asks for credentials, which its document does not say."
    if status == 403:
        return f"{names} may not do this." if names else "It does not allow this."
    if status == 429:
        after = answered.get("Retry-After")
        return f"It is asked too often: call again after {after} (Retry-After)." if after else "It is asked too often: wait before calling again."
    return "That is the API's own trouble: calling again later may help." if status >= 500 else HINTS.get(status, "")


def hidden(text, secrets):
    """Some APIs repeat what they were sent."""
    for secret, label in secrets:
        if len(secret) > 3:
            text = text.replace(secret, label).replace(encoded(secret), label)
    return text


def told(status, answered, content, whole, own, shape):
    sources, secrets = own
    media = answered.get("Content-Type", "").split(";")[0].strip().lower()
    is_json = media == "application/json" or media.endswith("+json")
    words = ("xml", "javascript", "yaml", "x-www-form-urlencoded", "ndjson", "graphql")
    is_text = is_json or media.startswith("text/") or any(word in media for word in words) or (media == "" and 0 not in content[:1024])
    if not 200 <= status < 300:
        said = content[:4096].decode("utf-8", "replace").strip() if is_text and media != "text/html" else ""
        said = hidden(said, secrets)
        return failed("\n".join(part for part in (f"The API answered {status}.", said, hint(status, answered, sources)) if part))
    if not content:
        return success(f"Done ({status}).", {}, shape)
    if not is_text:
        return success(f"{len(content)}{'' if whole else '+'} bytes of {media or 'binary data'}.", {}, shape)
    text, value = hidden(content.decode("utf-8", "replace"), secrets), None
    if is_json or media == "":
        try:
            value = json.loads(text)
        except ValueError:
            value = None
    if isinstance(value, dict) and isinstance(value.get("errors"), list) and value["errors"] and value.get("data") is None:
        return failed(compact(value["errors"])[:MOST_TEXT])
    shown = text if value is None else compact(value)
    is_cut = len(shown) > MOST_TEXT or not whole
    note = "\n[truncated; ask for less, by a limit, an offset or a filter]" if is_cut else ""
    link = re.search(r'<([^>]*)>[^,]*;\s*rel="?next"?', answered.get("Link", ""))
    more = f"\n[there is more: the next page has {hidden(urllib.parse.urlsplit(link[1]).query, secrets)}]" if link else ""
    return success(shown[:MOST_TEXT] + note + more, {"truncated": True} if is_cut else value, shape)


def success(text, value, shape):
    content = [{"type": "text", "text": text}]
    if isinstance(value, dict) and (shape or value):
        return {"content": content, "structuredContent": value}
    if not shape:
        return {"content": content}
    return {"content": content, "structuredContent": {"text": text} if value is None else {"result": value}}


def call(server, tool, args):
    action = tool["action"]
    kind = action["kind"]
    if kind == "http":
        return exchange(server, action, build(action, args), action["accept"], tool.get("outputSchema"))
    if kind == "graphql":
        body = ("application/json", compact({"query": action["query"], "variables": args}).encode())
        return exchange(server, action, (action["path"], [], [], [], body), "application/json", tool.get("outputSchema"))
    if kind == "meta":
        return call_meta(server, action["does"], args)
    return BUILTINS[action["handler"]](args, server["name"])


# Four tools for an API with more operations than a model can be shown


def words(text):
    return [word for word in re.split(r"[\W_]+", text.lower()) if word]


def score(operation, wanted):
    name, rest = words(operation["name"]), set(words(f"{operation['title']} {operation['description']}"))
    total = 0
    for word in wanted:
        stem = re.sub("s$", "", word) if len(word) > 3 else word
        forms = {word, stem, stem + "s"}
        total += 3 if forms & set(name) else 1 if forms & rest else 0
    return total


def call_meta(server, does, args):
    operations = server.get("operations", [])
    told_as = lambda value: {"content": [{"type": "text", "text": compact(value)}]}
    if does == "find":
        wanted = words(args.get("query", ""))
        scored = [(score(one, wanted), -at, one) for at, one in enumerate(operations)]
        found = sorted((one for one in scored if not wanted or one[0] > 0), key=lambda one: one[:2], reverse=True)
        shown = [{"name": one["name"], "title": one["title"], "reads": one["annotations"]["readOnlyHint"]} for _, _, one in found[: min(args.get("limit", 20), 50)]]
        return told_as({"operations": shown, "found": len(found), "of": len(operations)})
    operation = next((one for one in operations if one["name"] == args.get("operation")), None)
    if operation is None:
        raise ToolError(f"There is no operation {compact(args.get('operation'))}: find its name first.")
    reads = operation["annotations"]["readOnlyHint"]
    if does == "describe":
        return told_as({**{key: operation[key] for key in ("name", "title", "description")}, "reads": reads, "arguments": operation["inputSchema"]})
    if reads != (does == "read"):
        raise ToolError(f"{operation['name']} {'only reads: call it by the tool that reads' if reads else 'changes things: call it by the tool that writes'}.")
    given = args.get("arguments", {})
    wrong = problems(given, operation["inputSchema"])
    if wrong:
        raise ToolError("\n".join(wrong) + f"\n{operation['name']} takes: {compact(operation['inputSchema'])}")
    return call(server, operation, given)
