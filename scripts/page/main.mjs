// Runs all tests of the chat page. An argument runs those whose name contains it.

import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";

import { runAll } from "./harness.mjs";
import { OUTPUT, ASSETS } from "./paths.mjs";

// Node takes a folder's files for ES modules if a package.json says so; the page's folder has no use for one.
rmSync(ASSETS, { recursive: true, force: true });
mkdirSync(OUTPUT, { recursive: true });
cpSync("crates/server/src/page/assets", ASSETS, { recursive: true });
writeFileSync(`${ASSETS}/package.json`, '{"type": "module"}\n');

await import("./markdown_tests.mjs");
await import("./module_tests.mjs");
const { close } = await import("./browser_tests.mjs");

const { numPassed, numFailed } = await runAll(process.argv[2]);
await close();
console.log(`${numPassed} passed, ${numFailed} failed, 0 skipped`);
process.exit(numFailed === 0 ? 0 : 1);
