// Where things are, from the root of the repository.

import { createRequire } from "node:module";
import { resolve } from "node:path";

export const OUTPUT = resolve("target/page");
export const ASSETS = resolve("target/page/assets");
export const BINARY = resolve("target/release/cachalot");

const installed = createRequire(resolve("target/page/tools/package.json"));
export const { chromium } = installed("playwright-core");
export const axePath = installed.resolve("axe-core/axe.min.js");
