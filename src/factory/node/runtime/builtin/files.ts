// Files below one folder, and nothing outside of it.

import * as fs from "node:fs/promises";
import * as path from "node:path";

import type { Around, Handler } from "../builtin.js";
import { ToolError, type JsonObject, type Result } from "../types.js";
import { folder, inTurn, isMissing, write } from "./place.js";

const MOST_BYTES = 1 << 20;
const MOST_LISTED = 500;

/** The real path of a file below the folder: neither `..` nor a link leads out of it. */
async function placeOf(args: JsonObject, around: Around): Promise<{ readonly root: string; readonly place: string; readonly shown: string }> {
  const shown = typeof args["path"] === "string" ? args["path"] : ".";
  const root = await fs.realpath(path.join(await folder(around.name), "."));
  const place = path.resolve(root, shown);
  const out = new ToolError(`${JSON.stringify(shown)} is not below the folder of this server.`);
  if (shown.includes("\0") || path.isAbsolute(shown) || !isBelow(root, place)) throw out;
  for (let above = place; isBelow(root, above) && above !== root; above = path.dirname(above)) {
    try {
      if (!isBelow(root, await fs.realpath(above))) throw out;
      break;
    } catch (error) {
      if (!isMissing(error)) throw error;
      // A link that leads nowhere yet would be written through.
      if (await fs.lstat(above).then((found) => found.isSymbolicLink(), () => false)) throw out;
    }
  }
  return { root, place, shown };
}

function isBelow(root: string, place: string): boolean {
  return place === root || place.startsWith(root + path.sep);
}

function told(value: JsonObject): Result {
  return { content: [{ type: "text", text: JSON.stringify(value) }], structuredContent: value };
}

async function orMissing<T>(shown: string, does: Promise<T>): Promise<T> {
  try {
    return await does;
  } catch (error) {
    const code = (error as { readonly code?: unknown }).code;
    if (code === "ENOENT") throw new ToolError(`There is no ${JSON.stringify(shown)}.`);
    if (code === "EISDIR" || code === "EPERM") throw new ToolError(`${JSON.stringify(shown)} is a folder.`);
    if (code === "ENOTDIR" || code === "EEXIST") throw new ToolError(`Part of ${JSON.stringify(shown)} is a file, not a folder.`);
    throw error;
  }
}

export const files: { readonly [handler: string]: Handler } = {
  "files.read": async (args, around) => {
    const { place, shown } = await placeOf(args, around);
    const found = await orMissing(shown, fs.stat(place));
    if (found.size > MOST_BYTES) throw new ToolError(`${JSON.stringify(shown)} has ${found.size} bytes, more than are read at once (${MOST_BYTES}).`);
    const bytes = await orMissing(shown, fs.readFile(place));
    const text = new TextDecoder("utf-8", { fatal: false }).decode(bytes);
    return { content: [{ type: "text", text }], structuredContent: { path: shown, text } };
  },
  "files.write": async (args, around) => {
    const { place, shown, root } = await placeOf(args, around);
    const text = String(args["text"]);
    if (place === root) throw new ToolError("The folder itself cannot be written.");
    if (text.length > MOST_BYTES) throw new ToolError(`No more than ${MOST_BYTES} characters are written at once.`);
    await inTurn(async () => {
      await orMissing(shown, fs.mkdir(path.dirname(place), { recursive: true }));
      await orMissing(shown, write(place, text));
    });
    return told({ path: shown, bytes: new TextEncoder().encode(text).length });
  },
  "files.list": async (args, around) => {
    const { place, shown } = await placeOf(args, around);
    const entries = await orMissing(shown, fs.readdir(place, { withFileTypes: true }));
    const sorted = entries.map((entry) => ({ name: entry.name, kind: entry.isDirectory() ? "folder" : "file" })).sort((a, b) => (a.name < b.name ? -1 : 1));
    return told({ path: shown, entries: sorted.slice(0, MOST_LISTED), total: sorted.length });
  },
  "files.delete": async (args, around) => {
    const { place, shown } = await placeOf(args, around);
    await inTurn(() => orMissing(shown, fs.unlink(place)));
    return told({ path: shown, deleted: true });
  },
};
