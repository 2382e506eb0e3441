# Tools that need no API


def plainly(value):
    return {"content": [{"type": "text", "text": compact(value)}], "structuredContent": value}


def number_told(value):
    if isinstance(value, complex) or value != value or value in (float("inf"), float("-inf")):
        raise ToolError("The result is not a number that can be written.")
    rounded = float(f"{value:.15g}")
    result = int(rounded) if rounded.is_integer() and abs(rounded) < 1e21 else rounded
    return {"content": [{"type": "text", "text": compact(result)}], "structuredContent": {"result": result}}


def divided(a, b):
    if b == 0:
        raise ToolError("Nothing is divided by zero.")
    return a / b


def remainder(a, b):
    divided(a, b)
    return a - b * int(a / b)


def powered(a, b):
    try:
        return float(a) ** float(b)
    except OverflowError:
        return float("inf")
    except ZeroDivisionError:
        raise ToolError("Nothing is divided by zero.") from None


def root(args, _):
    if args["value"] < 0:
        raise ToolError("A negative number has no real square root.")
    return number_told(args["value"] ** 0.5)


def two(does):
    return lambda args, _: number_told(does(float(args["a"]), float(args["b"])))


class Expression:
    """`+ - * / % ^`, parentheses and the usual precedence; `^` binds to the right."""

    def __init__(self, text):
        self.tokens, self.at, self.depth = re.findall(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+|[-+*/%^()]|\S", text), 0, 0

    def next(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def value(self):
        value = self.sum()
        if self.next() is not None:
            raise ToolError(f"{compact(self.next())} does not belong there.")
        return value

    def sum(self):
        value = self.product()
        while self.next() in ("+", "-"):
            sign, self.at = self.next(), self.at + 1
            value = value + self.product() if sign == "+" else value - self.product()
        return value

    def product(self):
        value = self.unary()
        while self.next() in ("*", "/", "%"):
            sign, self.at = self.next(), self.at + 1
            other = self.unary()
            value = value * other if sign == "*" else divided(value, other) if sign == "/" else remainder(value, other)
        return value

    def unary(self):
        self.depth += 1
        if self.depth > 200:
            raise ToolError("The expression is nested too deeply.")
        sign = self.next()
        if sign in ("+", "-"):
            self.at += 1
            value = -self.unary() if sign == "-" else self.unary()
        else:
            value = self.atom()
            if self.next() == "^":
                self.at += 1
                value = powered(value, self.unary())
        self.depth -= 1
        return value

    def atom(self):
        token, self.at = self.next(), self.at + 1
        if token == "(":
            value = self.sum()
            if self.next() != ")":
                raise ToolError("A parenthesis is not closed.")
            self.at += 1
            return value
        if token is None:
            raise ToolError("The expression ends too early.")
        if not token[0].isdigit() and token[0] != ".":
            raise ToolError(f"{compact(token)} is not part of a calculation.")
        return float(token)


CHANGES = threading.Lock()


def folder(name):
    place = variable("MCP_DATA_DIR") or os.path.join(os.path.expanduser("~"), ".local", "share", name)
    os.makedirs(place, exist_ok=True)
    return place


def write(file, content):
    """The file is whole at every moment: written beside its place, then moved there."""
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(file), suffix=".draft")
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
        os.replace(draft, file)
    except BaseException:
        os.unlink(draft)
        raise


def records(name, file):
    place = os.path.join(folder(name), file)
    try:
        with open(place, encoding="utf-8") as opened:
            kept = json.load(opened)
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ToolError(f"{place} is not JSON: move it away to begin anew.") from None
    if not isinstance(kept, dict):
        raise ToolError(f"{place} is not what this server wrote: move it away to begin anew.")
    return kept


def change(name, file, does):
    with CHANGES:
        kept = records(name, file)
        value = does(kept)
        if len(kept) > 10_000:
            raise ToolError("No more than 10000 are kept: delete some first.")
        write(os.path.join(folder(name), file), compact(kept).encode())
        return plainly(value)


def existing(kept, kind, key):
    if key not in kept:
        raise ToolError(f"There is no {kind} {compact(key)}.")
    return kept[key]


def page(everything, args, name):
    offset, limit = args.get("offset", 0), args.get("limit", 50)
    more = {"next_offset": offset + limit} if offset + limit < len(everything) else {}
    return plainly({name: everything[offset : offset + limit], "total": len(everything), **more})


def set_value(args, name):
    def does(kept):
        replaced = args["key"] in kept
        kept[args["key"]] = args["value"]
        return {"key": args["key"], "replaced": replaced}

    return change(name, "values.json", does)


def deleted(name, file, kind, member, key):
    def does(kept):
        existing(kept, kind, key)
        del kept[key]
        return {member: key, "deleted": True}

    return change(name, file, does)


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def create_note(args, name):
    def does(kept):
        key, at = str(max([int(key) for key in kept] or [0]) + 1), now()
        kept[key] = {"id": key, "title": args["title"], "text": args.get("text", ""), "tags": args.get("tags", []), "created_at": at, "updated_at": at}
        return kept[key]

    return change(name, "notes.json", does)


def update_note(args, name):
    def does(kept):
        before = existing(kept, "note", args["id"])
        kept[args["id"]] = {**before, **{key: args[key] for key in ("title", "text", "tags") if key in args}, "updated_at": now()}
        return kept[args["id"]]

    return change(name, "notes.json", does)


def search_notes(args, name):
    wanted = args.get("query", "").lower()
    found = [note for note in records(name, "notes.json").values() if wanted in f"{note['title']}\n{note['text']}\n{compact(note['tags'])}".lower()]
    return page(found, args, "notes")


def placed(args, name):
    """The real path of a file below the folder: neither `..` nor a link leads out of it."""
    shown = args.get("path", ".")
    base = os.path.realpath(folder(name))
    place = os.path.realpath(os.path.join(base, shown)) if "\0" not in shown else ""
    if os.path.isabs(shown) or not (place == base or place.startswith(base + os.sep)):
        raise ToolError(f"{compact(shown)} is not below the folder of this server.")
    return base, place, shown


def with_files(does):
    def handler(args, name):
        base, place, shown = placed(args, name)
        try:
            return does(args, base, place, shown)
        except FileNotFoundError:
            raise ToolError(f"There is no {compact(shown)}.") from None
        except (IsADirectoryError, PermissionError):
            raise ToolError(f"{compact(shown)} is a folder.") from None
        except (NotADirectoryError, FileExistsError):
            raise ToolError(f"Part of {compact(shown)} is a file, not a folder.") from None

    return handler


def read_file(_, __, place, shown):
    if os.stat(place).st_size > 1 << 20:
        raise ToolError(f"{compact(shown)} has more bytes than are read at once ({1 << 20}).")
    with open(place, "rb") as opened:
        text = opened.read().decode("utf-8", "replace")
    return {"content": [{"type": "text", "text": text}], "structuredContent": {"path": shown, "text": text}}


def write_file(args, base, place, shown):
    if place == base:
        raise ToolError("The folder itself cannot be written.")
    content = args["text"].encode()
    with CHANGES:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        write(place, content)
    return plainly({"path": shown, "bytes": len(content)})


def list_files(_, __, place, shown):
    entries = sorted(({"name": entry.name, "kind": "folder" if entry.is_dir() else "file"} for entry in os.scandir(place)), key=lambda entry: entry["name"])
    return plainly({"path": shown, "entries": entries[:500], "total": len(entries)})


def delete_file(_, __, place, shown):
    with CHANGES:
        os.unlink(place)
    return plainly({"path": shown, "deleted": True})


class Public(http.client.HTTPConnection):
    """Connects to what was looked at: a name is looked up once, and no address of a private network is asked."""

    def connect(self):
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if not ipaddress.ip_address(address[0].split("%")[0]).is_global and variable("MCP_ALLOW_PRIVATE") != "1":
                raise ToolError(f"{self.host} is an address of a private network, which is not asked (MCP_ALLOW_PRIVATE=1 allows it).")
        self.sock = socket.create_connection(found[0][4][:2], self.timeout)


class PublicTls(Public):
    def connect(self):
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def plain_text(markup):
    """The text between tags, in one pass: each character is looked at once."""
    import html

    lower, parts, at = markup.lower(), [], 0
    while (start := markup.find("<", at)) >= 0:
        parts.append(markup[at:start])
        tag = re.match(r"</?([a-z0-9]+)", lower[start : start + 16])
        name, end = tag[1] if tag else "", markup.find(">", start)
        if end < 0:
            at = len(markup)
            break
        at = end + 1
        parts.append("\n" if name in ("br", "p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6") else " ")
        if name in ("script", "style", "noscript", "template") and markup[start + 1] != "/":
            close = lower.find(f"</{name}", at)
            at = len(markup) if close < 0 else close
    text = html.unescape("".join(parts) + markup[at:])
    lines = (re.sub(r"[ \t\r\xa0]+", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def fetch(args, name):
    url = urllib.parse.urlsplit(args["url"])
    for _ in range(6):
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ToolError("url must be an absolute http or https address, such as https://example.org/.")
        if url.username or url.password:
            raise ToolError("The address must not have a user or a password in it.")
        connection = (PublicTls if url.scheme == "https" else Public)(url.hostname, url.port or (443 if url.scheme == "https" else 80), timeout=30)
        try:
            target = urllib.parse.quote(url.path or "/", safe="/%:@!$&'()*+,;=-._~") + (f"?{url.query}" if url.query else "")
            connection.request("GET", target, headers={"User-Agent": name, "Accept": "text/*, application/json;q=0.9, */*;q=0.1"})
            response = connection.getresponse()
            content = response.read((2 << 20) + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ToolError(f"{url.netloc} could not be reached: {error}.") from None
        finally:
            connection.close()
        location = response.headers.get("Location")
        if not 300 <= response.status < 400 or location is None:
            break
        url = urllib.parse.urlsplit(urllib.parse.urljoin(url.geturl(), location))
    else:
        raise ToolError("The page sends on in circles.")
    if not 200 <= response.status < 300:
        raise ToolError(f"{url.netloc} answered {response.status}.")
    media = response.headers.get("Content-Type", "").split(";")[0].strip()
    if not re.search(r"^text/|json|xml|javascript|^$", media):
        return {"content": [{"type": "text", "text": f"{len(content)} bytes of {media}."}]}
    text, start = content.decode("utf-8", "replace"), args.get("start", 0)
    if media == "text/html" and not args.get("raw"):
        text = plain_text(text)
    more = f"\n[there is more: call again with start={start + MOST_TEXT}]" if start + MOST_TEXT < len(text) else ""
    return {"content": [{"type": "text", "text": text[start : start + MOST_TEXT] + more}]}


BUILTINS = {
    "calculator.add": two(lambda a, b: a + b),
    "calculator.subtract": two(lambda a, b: a - b),
    "calculator.multiply": two(lambda a, b: a * b),
    "calculator.divide": two(divided),
    "calculator.modulo": two(remainder),
    "calculator.power": two(powered),
    "calculator.root": root,
    "calculator.evaluate": lambda args, _: number_told(Expression(args["expression"]).value()),
    "values.set": set_value,
    "values.get": lambda args, name: plainly({"key": args["key"], "value": existing(records(name, "values.json"), "key", args["key"])}),
    "values.delete": lambda args, name: deleted(name, "values.json", "key", "key", args["key"]),
    "values.list": lambda args, name: page(sorted(key for key in records(name, "values.json") if key.startswith(args.get("prefix", ""))), args, "keys"),
    "notes.create": create_note,
    "notes.get": lambda args, name: plainly(existing(records(name, "notes.json"), "note", args["id"])),
    "notes.update": update_note,
    "notes.delete": lambda args, name: deleted(name, "notes.json", "note", "id", args["id"]),
    "notes.search": search_notes,
    "files.read": with_files(read_file),
    "files.write": with_files(write_file),
    "files.list": with_files(list_files),
    "files.delete": with_files(delete_file),
    "fetch.get": fetch,
}
