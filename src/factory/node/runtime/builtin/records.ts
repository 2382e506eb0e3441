// Keys with values, and notes: both are kept in one JSON file.

import * as fs from "node:fs/promises";
import * as path from "node:path";

import type { Around, Handler } from "../builtin.js";
import { isObject, ToolError, type Json, type JsonObject, type Result } from "../types.js";
import { folder, inTurn, isMissing, write } from "./place.js";

const MOST = 10_000;
const USUALLY_LISTED = 50;

type Records = { [key: string]: Json };

async function read(around: Around, file: string): Promise<Records> {
  const place = path.join(await folder(around.name), file);
  try {
    const kept = JSON.parse(await fs.readFile(place, "utf8")) as Json;
    if (!isObject(kept)) throw new ToolError(`${place} is not what this server wrote: move it away to begin anew.`);
    return Object.assign(Object.create(null) as Records, kept);
  } catch (error) {
    if (isMissing(error)) return Object.create(null) as Records;
    if (error instanceof SyntaxError) throw new ToolError(`${place} is not JSON: move it away to begin anew.`);
    throw error;
  }
}

function change<T>(around: Around, file: string, does: (records: Records) => T): Promise<T> {
  return inTurn(async () => {
    const records = await read(around, file);
    const value = does(records);
    if (Object.keys(records).length > MOST) throw new ToolError(`No more than ${MOST} are kept: delete some first.`);
    await write(path.join(await folder(around.name), file), JSON.stringify(records));
    return value;
  });
}

function told(value: JsonObject): Result {
  return { content: [{ type: "text", text: JSON.stringify(value) }], structuredContent: value };
}

function existing(records: Records, kind: string, key: string): Json {
  const found = records[key];
  if (found === undefined) throw new ToolError(`There is no ${kind} ${JSON.stringify(key)}.`);
  return found;
}

function page(all: readonly Json[], args: JsonObject, name: string): Result {
  const offset = typeof args["offset"] === "number" ? args["offset"] : 0;
  const limit = typeof args["limit"] === "number" ? args["limit"] : USUALLY_LISTED;
  const shown = all.slice(offset, offset + limit);
  return told({ [name]: shown, total: all.length, ...(offset + limit < all.length ? { next_offset: offset + limit } : {}) });
}

const VALUES = "values.json";
const NOTES = "notes.json";

const values: { readonly [handler: string]: Handler } = {
  "values.set": (args, around) =>
    change(around, VALUES, (records) => {
      const key = String(args["key"]);
      const existed = key in records;
      records[key] = args["value"] as Json;
      return told({ key, replaced: existed });
    }),
  "values.get": async (args, around) => {
    const key = String(args["key"]);
    return told({ key, value: existing(await read(around, VALUES), "key", key) });
  },
  "values.delete": (args, around) =>
    change(around, VALUES, (records) => {
      const key = String(args["key"]);
      existing(records, "key", key);
      delete records[key];
      return told({ key, deleted: true });
    }),
  "values.list": async (args, around) => {
    const prefix = typeof args["prefix"] === "string" ? args["prefix"] : "";
    const keys = Object.keys(await read(around, VALUES)).filter((key) => key.startsWith(prefix));
    return page(keys.sort(), args, "keys");
  },
};

function nextId(records: Records): string {
  const ids = Object.keys(records).map(Number);
  return String(ids.reduce((most, id) => Math.max(most, id), 0) + 1);
}

const notes: { readonly [handler: string]: Handler } = {
  "notes.create": (args, around) =>
    change(around, NOTES, (records) => {
      const id = nextId(records);
      const now = new Date().toISOString();
      const note = { id, title: args["title"] as Json, text: args["text"] ?? "", tags: args["tags"] ?? [], created_at: now, updated_at: now };
      records[id] = note;
      return told(note);
    }),
  "notes.get": async (args, around) => told(existing(await read(around, NOTES), "note", String(args["id"])) as JsonObject),
  "notes.update": (args, around) =>
    change(around, NOTES, (records) => {
      const id = String(args["id"]);
      const before = existing(records, "note", id) as JsonObject;
      const given = Object.fromEntries(Object.entries(args).filter(([name]) => ["title", "text", "tags"].includes(name)));
      const note = { ...before, ...given, updated_at: new Date().toISOString() };
      records[id] = note;
      return told(note);
    }),
  "notes.delete": (args, around) =>
    change(around, NOTES, (records) => {
      const id = String(args["id"]);
      existing(records, "note", id);
      delete records[id];
      return told({ id, deleted: true });
    }),
  "notes.search": async (args, around) => {
    const wanted = typeof args["query"] === "string" ? args["query"].toLowerCase() : "";
    const all = Object.values(await read(around, NOTES)) as unknown as readonly JsonObject[];
    const found = all.filter((note) => `${String(note["title"])}\n${String(note["text"])}\n${JSON.stringify(note["tags"])}`.toLowerCase().includes(wanted));
    return page(found, args, "notes");
  },
};

export const records: { readonly [handler: string]: Handler } = { ...values, ...notes };
