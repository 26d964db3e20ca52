// The runner of the suites that are written in JavaScript; the same as cases.py, and the same last line.

import assert from 'node:assert/strict';

const SHOWN_CHARACTERS = 4000;
const cases = [];
let notes = [];

/** Registers a function as a case. */
export function test(name, action) {
  cases.push([name, action]);
}

/** Registers a function as one case for each row: the row's own name, and the function's arguments. */
export function table(name, rows, action) {
  for (const [rowName, ...args] of rows) test(`${name}: ${rowName}`, () => action(...args));
}

/** Keeps a value to be shown if the case fails. */
export function note(label, value) {
  notes.push([label, value]);
}

export function equal(what, found, expected) {
  try {
    assert.deepEqual(found, expected);
  } catch {
    throw new Error(`${what}: expected ${shown(expected)}, found ${shown(found)}`);
  }
}

export function holds(what, condition, found) {
  if (!condition) throw new Error(`${what}; found ${shown(found)}`);
}

/** The error of this class that the action throws. */
export async function throws(kind, action) {
  let found;
  try {
    found = await action();
  } catch (error) {
    note('error', `${error?.constructor?.name}: ${error?.message}`);
    // Packages have copies of their classes; those that know it bring a test of their own.
    holds(`an error of the class ${kind.name}`, kind.isInstance?.(error) ?? error instanceof kind, String(error));
    return error;
  }
  throw new Error(`expected ${kind.name}, found ${shown(found)}`);
}

function shown(value) {
  const text = typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value));
  return text.length <= SHOWN_CHARACTERS ? text : `${text.slice(0, SHOWN_CHARACTERS)} … (${text.length} characters)`;
}

/** Runs all cases; an argument runs those alone whose name contains it. */
export async function main() {
  const wanted = process.argv[2] ?? '';
  let passed = 0;
  let failed = 0;
  for (const [name, action] of cases) {
    if (!name.includes(wanted)) continue;
    notes = [];
    const began = performance.now();
    try {
      await action();
      passed += 1;
      console.log(`ok ${name} (${((performance.now() - began) / 1000).toFixed(2)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}`);
      for (const [label, value] of notes) console.log(`    ${label}: ${shown(value)}`);
      const place = error.stack?.split('\n').find(line => line.includes('.mjs:') && !line.includes('cases.mjs') && !line.includes('node_modules'));
      console.log(`    ${error.name}: ${error.message}\n   ${place ?? ''}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed, 0 skipped`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}
