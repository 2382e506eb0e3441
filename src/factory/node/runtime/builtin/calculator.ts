// Arithmetic. Numbers are IEEE 754 doubles; what has no number as its result is an error.

import type { Handler } from "../builtin.js";
import { ToolError, type JsonObject, type Result } from "../types.js";

function told(value: number): Result {
  if (!Number.isFinite(value)) throw new ToolError("The result is not a number that can be written.");
  // -0 is 0 for everybody who asks.
  const result = value === 0 ? 0 : Number(value.toPrecision(15));
  return { content: [{ type: "text", text: String(result) }], structuredContent: { result } };
}

function number(args: JsonObject, name: string): number {
  const value = args[name];
  if (typeof value !== "number") throw new ToolError(`${name} must be a number`);
  return value;
}

function divided(a: number, b: number): number {
  if (b === 0) throw new ToolError("Nothing is divided by zero.");
  return a / b;
}

const two =
  (does: (a: number, b: number) => number): Handler =>
  (args) =>
    told(does(number(args, "a"), number(args, "b")));

export const calculator: { readonly [handler: string]: Handler } = {
  "calculator.add": two((a, b) => a + b),
  "calculator.subtract": two((a, b) => a - b),
  "calculator.multiply": two((a, b) => a * b),
  "calculator.divide": two(divided),
  "calculator.modulo": two((a, b) => (b === 0 ? divided(a, b) : a % b)),
  "calculator.power": two((a, b) => a ** b),
  "calculator.root": (args) => {
    const value = number(args, "value");
    if (value < 0) throw new ToolError("A negative number has no real square root.");
    return told(Math.sqrt(value));
  },
  "calculator.evaluate": (args) => told(evaluate(String(args["expression"]))),
};

const MOST_DEEP = 200;

/** `+ - * / % ^`, parentheses and the usual precedence; `^` binds to the right. */
export function evaluate(expression: string): number {
  const tokens = expression.match(/\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+|[-+*/%^()]|\S/g) ?? [];
  let at = 0;
  let depth = 0;
  const deeper = <T>(does: () => T): T => {
    depth += 1;
    if (depth > MOST_DEEP) throw new ToolError("The expression is nested too deeply.");
    const value = does();
    depth -= 1;
    return value;
  };
  const next = (): string | undefined => tokens[at];
  const sum = (): number => {
    let value = product();
    for (let sign = next(); sign === "+" || sign === "-"; sign = next()) {
      at += 1;
      const other = product();
      value = sign === "+" ? value + other : value - other;
    }
    return value;
  };
  const product = (): number => {
    let value = unary();
    for (let sign = next(); sign === "*" || sign === "/" || sign === "%"; sign = next()) {
      at += 1;
      const other = unary();
      value = sign === "*" ? value * other : sign === "/" ? divided(value, other) : (divided(value, other), value % other);
    }
    return value;
  };
  const unary = (): number =>
    deeper(() => {
      if (next() === "-") return ((at += 1), -unary());
      if (next() === "+") return ((at += 1), unary());
      return power();
    });
  const power = (): number => {
    const base = atom();
    if (next() !== "^") return base;
    at += 1;
    return base ** unary();
  };
  const atom = (): number => {
    const token = tokens[at];
    at += 1;
    if (token === "(") {
      const value = deeper(sum);
      if (tokens[at] !== ")") throw new ToolError("A parenthesis is not closed.");
      at += 1;
      return value;
    }
    if (token === undefined) throw new ToolError("The expression ends too early.");
    if (!/^[\d.]/.test(token) || Number.isNaN(Number(token))) throw new ToolError(`${JSON.stringify(token)} is not part of a calculation.`);
    return Number(token);
  };
  const value = sum();
  if (at < tokens.length) throw new ToolError(`${JSON.stringify(tokens[at])} does not belong there.`);
  return value;
}
