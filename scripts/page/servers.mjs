// The servers of the tests: the release binary, and one that says what a random model cannot.

import { spawn } from "node:child_process";
import { once } from "node:events";
import http from "node:http";

import { BINARY } from "./paths.mjs";

const START_TIMEOUT_MS = 120_000;

// Starts the binary on the embedded model and a free port.
export async function startReal(...options) {
  const server = spawn(BINARY, ["serve", "--port", "0", ...options], { stdio: ["ignore", "pipe", "inherit"] });
  // However this program ends, the server ends with it.
  process.on("exit", () => server.kill());
  let printed = "";
  const address = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not ready after ${START_TIMEOUT_MS} ms: ${printed}`)), START_TIMEOUT_MS);
    server.stdout.on("data", (piece) => {
      printed += piece;
      const ready = /ready\s+(http:\/\/[\d.]+:\d+)/.exec(printed);
      if (!ready) return;
      clearTimeout(timer);
      resolve(ready[1]);
    });
    server.on("exit", (code) => reject(new Error(`the server ended with ${code}: ${printed}`)));
    server.on("error", reject);
  });
  const stop = async () => {
    server.kill("SIGTERM");
    if (server.exitCode === null) await once(server, "exit");
  };
  return { address, stop };
}

const METRICS = `# TYPE cachalot_requests_running gauge
cachalot_requests_running 3
cachalot_requests_waiting 1
cachalot_kv_blocks_in_use 50
cachalot_kv_blocks_total 200
`;

// Answers as each test tells it; the page's own files come from the real server, headers and all.
export class FakeServer {
  requests = [];
  // Called with each chat request; gets a `Writer`.
  chat = async () => {};
  health = { status: 200, body: '{"status":"ok"}' };
  models = ["fake-model", "deepseek-chat", "deepseek-reasoner"];
  metrics = METRICS;
  numMetricsRequests = 0;
  key = null;
  address;
  #server;

  static async start(realAddress) {
    const fake = new FakeServer();
    fake.#server = http.createServer((request, response) => fake.#answer(realAddress, request, response));
    fake.#server.listen(0, "127.0.0.1");
    await once(fake.#server, "listening");
    fake.address = `http://127.0.0.1:${fake.#server.address().port}`;
    return fake;
  }

  reset() {
    Object.assign(this, new FakeServer(), { address: this.address });
  }

  async stop() {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }

  async #answer(realAddress, request, response) {
    const json = (status, body, headers = {}) => response.writeHead(status, { "content-type": "application/json", ...headers }).end(body);
    const isAllowed = this.key === null || request.headers.authorization === `Bearer ${this.key}`;
    const refuse = () => json(401, '{"error":{"message":"Authentication Fails: no API key","code":"invalid_request_error"}}');
    if (request.url === "/health") return json(this.health.status, this.health.body);
    if (request.url === "/metrics") this.numMetricsRequests++;
    if (request.url === "/metrics") return this.metrics === null ? json(404, "{}") : response.end(this.metrics);
    if (request.url === "/v1/models") {
      return isAllowed ? json(200, JSON.stringify({ data: this.models.map((id) => ({ id, object: "model" })) })) : refuse();
    }
    if (request.url === "/v1/chat/completions") {
      let text = "";
      for await (const piece of request) text += piece;
      this.requests.push(JSON.parse(text));
      if (!isAllowed) return refuse();
      const writer = new Writer(response);
      await this.chat(writer, this.requests.at(-1));
      return;
    }
    const real = await fetch(realAddress + request.url);
    response.writeHead(real.status, Object.fromEntries(real.headers)).end(Buffer.from(await real.arrayBuffer()));
  }
}

// Writes a stream of chunks.
export class Writer {
  isClosed = false;
  #response;
  #hasBegun = false;

  constructor(response) {
    this.#response = response;
    response.on("close", () => (this.isClosed = true));
  }

  // An answer that is no stream.
  refuse(status, body, headers = { "content-type": "application/json" }) {
    this.#response.writeHead(status, headers).end(body);
  }

  // Bytes as they are.
  raw(bytes) {
    if (!this.#hasBegun) this.#response.writeHead(200, { "content-type": "text/event-stream" });
    this.#hasBegun = true;
    this.#response.write(bytes);
  }

  delta(delta, rest = {}, top = {}) {
    if (!this.#hasBegun) this.event({ choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] });
    this.event({ choices: [{ index: 0, delta, finish_reason: null, ...rest }], usage: null, ...top });
  }

  event(value) {
    this.raw(`data: ${JSON.stringify(value)}\n\n`);
  }

  // Text in pieces of one token or so, with a pause after each.
  async say(member, text, pauseMs = 0) {
    for (const [piece] of text.matchAll(/\s*\S{1,6}|\s+$/g)) {
      if (this.isClosed) return;
      this.delta({ [member]: piece });
      if (pauseMs > 0) await pause(pauseMs);
    }
  }

  async call(index, name, text, pauseMs = 0) {
    this.delta({ tool_calls: [{ index, id: `call_0${index}_x`, type: "function", function: { name, arguments: "" } }] });
    for (const [piece] of text.matchAll(/.{1,5}/gs)) {
      this.delta({ tool_calls: [{ index, function: { arguments: piece } }] });
      if (pauseMs > 0) await pause(pauseMs);
    }
  }

  end(reason = "stop", { error, numTokens = 20 } = {}) {
    const usage = { prompt_tokens: 10, completion_tokens: numTokens, total_tokens: 10 + numTokens };
    this.delta({ content: "" }, { finish_reason: reason, ...(error && { error }) }, { usage });
    this.raw("data: [DONE]\n\n");
    this.#response.end();
  }

  // The connection breaks.
  destroy() {
    this.#response.destroy();
  }

  close() {
    this.#response.end();
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
