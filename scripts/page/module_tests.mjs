// The page's other modules that need no page: events, replies, storage, load.

import assert from "node:assert/strict";

import { randomNumbers, test } from "./harness.mjs";
import { ASSETS } from "./paths.mjs";

const { EventParser, readEvents } = await import(`${ASSETS}/sse.js`);
const { addEvent, hasWholeCalls, indentJson, newReply, openCalls, requestBody, requestMessages, speed, StreamError, thinkingSeconds } = await import(
  `${ASSETS}/reply.js`
);
const { DEFAULT_SETTINGS, KeyStore, newConversation, Store, titleOf, toolsProblem } = await import(`${ASSETS}/store.js`);
const { readLoad } = await import(`${ASSETS}/load.js`);

const EVENT_CASES = [
  ["data: a\n\ndata: b\n\n", ["a", "b"]],
  ["data: a\r\n\r\ndata: b\r\r", ["a", "b"]],
  ["data:a\ndata: b\ndata\n\n", ["a\nb\n"]],
  [": keep-alive\n\n: keep-alive\n\ndata: a\n\n", ["a"]],
  ["event: x\nid: 1\nretry: 5\ndata: a\n\n", ["a"]],
  ["data:  two spaces\n\n", [" two spaces"]],
  ["data: cut off", []],
  ["data: cut off\n", []],
  ["\n\n\n", []],
  ["data: 鲸🐋\n\n", ["鲸🐋"]],
];

test("events: every way to cut a text gives the same events", () => {
  for (const [text, expected] of EVENT_CASES) {
    for (let first = 0; first <= text.length; first++) {
      for (let second = first; second <= text.length; second++) {
        const parser = new EventParser();
        const events = [text.slice(0, first), text.slice(first, second), text.slice(second)].flatMap((piece) => parser.push(piece));
        assert.deepEqual(events, expected, JSON.stringify([text, first, second]));
      }
    }
  }
});

test("events: characters that are cut between bytes stay whole, and whoever stops reading ends the request", async () => {
  const bytes = new TextEncoder().encode("data: 鲸🐋é\n\ndata: b\n\n");
  for (let size = 1; size <= bytes.length; size++) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
        controller.close();
      },
    });
    assert.deepEqual(await Array.fromAsync?.(readEvents(body)) ?? (await collect(readEvents(body))), ["鲸🐋é", "b"], String(size));
  }
  let isCancelled = false;
  const endless = new ReadableStream({
    pull: (controller) => controller.enqueue(bytes),
    cancel: () => void (isCancelled = true),
  });
  for await (const _event of readEvents(endless)) break;
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.ok(isCancelled);
});

async function collect(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

test("events: random bytes never throw", () => {
  const random = randomNumbers(4);
  for (let number = 0; number < 2000; number++) {
    const parser = new EventParser();
    const decoder = new TextDecoder();
    for (let piece = 0; piece < 5; piece++) {
      const bytes = Uint8Array.from({ length: 30 }, () => (random() < 0.3 ? 10 : Math.floor(random() * 256)));
      for (const event of parser.push(decoder.decode(bytes, { stream: true }))) assert.equal(typeof event, "string");
    }
  }
});

const chunk = (delta, rest = {}, top = {}) => JSON.stringify({ choices: [{ index: 0, delta, finish_reason: null, ...rest }], ...top });

test("replies: reasoning, content, calls, usage and times", () => {
  const reply = newReply(1000);
  const events = [
    [1100, chunk({ role: "assistant", content: null, reasoning_content: "" })],
    [1200, chunk({ content: null, reasoning_content: "Let me" })],
    [1300, chunk({ content: null, reasoning_content: " think" })],
    [1700, chunk({ content: "So", reasoning_content: null })],
    [1800, chunk({ tool_calls: [{ index: 0, id: "c0", type: "function", function: { name: "f", arguments: "" } }] })],
    [1900, chunk({ tool_calls: [{ index: 0, function: { arguments: '{"a":' } }] })],
    [2000, chunk({ tool_calls: [{ index: 0, function: { arguments: "1}" } }] })],
    [2100, chunk({ tool_calls: [{ index: 1, id: "c1", type: "function", function: { name: "g", arguments: "" } }] })],
    [2200, chunk({ content: "" }, { finish_reason: "tool_calls" }, { usage: { prompt_tokens: 9, completion_tokens: 11, prompt_cache_hit_tokens: 0 } })],
  ];
  for (const [now, data] of events) assert.equal(addEvent(reply, data, now), true);
  assert.equal(addEvent(reply, "[DONE]", 2300), false);
  assert.equal(reply.reasoning_content, "Let me think");
  assert.equal(reply.content, "So");
  assert.deepEqual(reply.tool_calls, [
    { id: "c0", name: "f", arguments: '{"a":1}' },
    { id: "c1", name: "g", arguments: "" },
  ]);
  assert.ok(hasWholeCalls(reply));
  assert.equal(thinkingSeconds(reply.timing), 0.5);
  assert.deepEqual(speed(reply.timing), { firstTokenSeconds: 0.2, tokensPerSecond: 10 / 0.9 });
});

test("replies: errors, defects, and hostile chunks", () => {
  const refuse = (data, message) => assert.throws(() => addEvent(newReply(0), data, 1), (error) => error instanceof StreamError && error.message === message);
  refuse('{"error":{"message":"the model failed","code":"x"}}', "the model failed");
  refuse('{"error":{}}', "The request failed.");
  refuse("{not json", "The server sent an event that is not JSON.");
  const reply = newReply(0);
  for (const data of [
    "null", "1", "[]", "{}", '{"choices":null}', '{"choices":[null]}', '{"choices":[{"delta":null}]}', chunk({ content: 5, reasoning_content: [] }),
    chunk({ tool_calls: "x" }), chunk({ tool_calls: [{ index: -1 }, { index: 1e9 }, { index: 3 }] }), '{"usage":{"completion_tokens":"many"}}',
  ]) {
    assert.equal(addEvent(reply, data, 1), true, data);
  }
  assert.deepEqual([reply.content, reply.reasoning_content, reply.tool_calls], ["", null, []]);
  const defect = chunk({ content: "" }, { finish_reason: "stop", error: { type: "malformed_tool_call", message: "no name", text: "<x>" } });
  addEvent(reply, defect, 2);
  assert.deepEqual(reply.defect, { message: "no name", text: "<x>" });
});

const answer = (content, more = {}) => ({ ...newReply(0), content, finish_reason: "stop", ...more });
const call = (id, text = "{}") => ({ id, name: "f", arguments: text });

test("histories: reasoning goes back in the running tool turn only, and nothing is sent that would be refused", () => {
  const called = answer("", { reasoning_content: "why", tool_calls: [call("a")], finish_reason: "tool_calls" });
  const result = { role: "tool", tool_call_id: "a", content: "7" };
  const user = (content) => ({ role: "user", content });
  const sentCall = { id: "a", type: "function", function: { name: "f", arguments: "{}" } };
  for (const [name, messages, expected] of [
    ["plain", [user("q"), answer("a", { reasoning_content: "r" }), user("q2")], [user("q"), { role: "assistant", content: "a" }, user("q2")]],
    [
      "running turn",
      [user("q"), called, result],
      [user("q"), { role: "assistant", content: "", tool_calls: [sentCall], reasoning_content: "why" }, result],
    ],
    [
      "running turn without thinking",
      [user("q"), { ...called, reasoning_content: null }, result],
      [user("q"), { role: "assistant", content: "", tool_calls: [sentCall], reasoning_content: "" }, result],
    ],
    [
      "past turn",
      [user("q"), called, result, answer("a"), user("q2")],
      [user("q"), { role: "assistant", content: "", tool_calls: [sentCall] }, result, { role: "assistant", content: "a" }, user("q2")],
    ],
    ["failed answer", [user("q"), answer(""), user("q2")], [user("q\n\nq2")]],
    ["cut call", [user("q"), answer("a", { tool_calls: [call("a", '{"x')], finish_reason: "length" }), user("q2")], [user("q"), { role: "assistant", content: "a" }, user("q2")]],
    ["call without an object", [user("q"), answer("a", { tool_calls: [call("a", "[1]")], finish_reason: "tool_calls" }), user("q2")], [user("q"), { role: "assistant", content: "a" }, user("q2")]],
  ]) {
    const before = JSON.stringify(messages);
    assert.deepEqual(requestMessages(messages, ""), expected, name);
    assert.equal(JSON.stringify(messages), before, `${name} is changed`);
  }
  assert.deepEqual(requestMessages([user("q")], "be kind")[0], { role: "system", content: "be kind" });
  assert.deepEqual(openCalls([user("q"), called]).map((open) => open.id), ["a"]);
  assert.deepEqual(openCalls([user("q"), called, result]), []);
  assert.deepEqual(openCalls([]), []);
});

test("requests: a setting that is not made is not sent", () => {
  const messages = [{ role: "user", content: "q" }];
  assert.deepEqual(Object.keys(requestBody(messages, DEFAULT_SETTINGS)), ["messages", "stream", "stream_options"]);
  const settings = { ...DEFAULT_SETTINGS, model: "m", thinking: "off", temperature: 0, maxTokens: 5, tools: "[]" };
  const { model, thinking, temperature, max_tokens, tools } = requestBody(messages, settings);
  assert.deepEqual([model, thinking, temperature, max_tokens, tools], ["m", { type: "disabled" }, 0, 5, []]);
});

test("arguments: indented JSON keeps its tokens", () => {
  for (const [text, expected] of [
    ['{"a": 12345678901234567890, "b": ["x, {y}", "\\"z:"], "c": {}}', '{\n  "a": 12345678901234567890,\n  "b": [\n    "x, {y}",\n    "\\"z:"\n  ],\n  "c": {}\n}'],
    ["{}", "{}"],
    ['{"a":{"b":null}}', '{\n  "a": {\n    "b": null\n  }\n}'],
  ]) {
    assert.equal(indentJson(text), expected);
  }
});

// Storage with a limit, as browsers have it.
class FakeStorage {
  entries = new Map();

  constructor(limit = Infinity) {
    this.limit = limit;
  }

  get length() {
    return this.entries.size;
  }

  key(index) {
    return [...this.entries.keys()][index] ?? null;
  }

  getItem(key) {
    return this.entries.get(key) ?? null;
  }

  setItem(key, value) {
    const others = [...this.entries].filter(([name]) => name !== key);
    const used = others.reduce((sum, [name, text]) => sum + name.length + text.length, 0);
    if (used + key.length + value.length > this.limit) throw new Error("QuotaExceededError");
    this.entries.set(key, value);
  }

  removeItem(key) {
    this.entries.delete(key);
  }
}

const told = (id, updated, length = 10) => ({ ...newConversation(updated), id, messages: [{ role: "user", content: "x".repeat(length) }] });

test("storage: the newest conversations are kept, within bounds", () => {
  const storage = new FakeStorage();
  const store = new Store(storage);
  for (let number = 0; number < 120; number++) assert.ok(store.save(told(`c${number}`, number)));
  const kept = store.conversations();
  assert.deepEqual([kept.length, kept[0].id, kept.at(-1).id], [100, "c119", "c20"]);
  store.remove("c119");
  assert.equal(store.conversations()[0].id, "c118");
  const small = new Store(new FakeStorage(5000));
  for (let number = 0; number < 10; number++) assert.ok(small.save(told(`c${number}`, number, 1000)), String(number));
  assert.equal(small.conversations()[0].id, "c9");
  assert.ok(small.conversations().length >= 2);
  assert.equal(small.save(told("big", 99, 10_000)), false);
  assert.equal(new Store(new FakeStorage()).save(told("huge", 1, 5_000_000)), false);
});

test("storage: what is broken or foreign is not read", () => {
  for (const text of ["", "{", "null", "5", "[]", '{"id":1}', '{"id":"a","title":"","updated":1,"messages":[{"role":"root","content":""}]}', '{"id":"a","title":"","updated":1,"messages":[{"role":"assistant","content":"","tool_calls":{}}]}']) {
    const storage = new FakeStorage();
    storage.setItem("cachalot.conversation.a", text);
    storage.setItem("cachalot.settings", text);
    const store = new Store(storage);
    assert.deepEqual(store.conversations(), [], text);
    assert.deepEqual(store.settings(), { ...DEFAULT_SETTINGS }, text);
  }
  const storage = new FakeStorage();
  storage.setItem("cachalot.settings", JSON.stringify({ temperature: 9, theme: "dark", thinking: "maybe", tools: "[{}]", maxTokens: "5", extra: 1 }));
  assert.deepEqual(new Store(storage).settings(), { ...DEFAULT_SETTINGS, theme: "dark" });
  const blocked = new Proxy({}, { get: () => { throw new Error("SecurityError"); } });
  assert.deepEqual(new Store(blocked).conversations(), []);
  assert.equal(new Store(blocked).save(told("a", 1)), false);
});

test("storage: the key is kept where the person says, and nowhere else", () => {
  for (const [place, inSession, inLocal] of [["tab", "k", null], ["browser", null, "k"]]) {
    const [session, local] = [new FakeStorage(), new FakeStorage()];
    new KeyStore(session, local).set("k", place);
    assert.deepEqual([session.getItem("cachalot.key"), local.getItem("cachalot.key")], [inSession, inLocal]);
    const again = new KeyStore(session, local);
    assert.deepEqual([again.key, again.isRemembered], ["k", place === "browser"]);
    again.set("", place);
    assert.deepEqual([session.length, local.length, new KeyStore(session, local).key], [0, 0, ""]);
  }
});

test("storage: titles and tools", () => {
  assert.equal(titleOf([{ role: "user", content: "  One\ntwo" }]), "One");
  assert.equal(titleOf([{ role: "user", content: "y".repeat(99) }]).length, 58);
  for (const [text, isFine] of [["", true], ["[]", true], ['[{"type":"function","function":{"name":"f"}}]', true], ["{}", false], ["[1]", false], ["[{]", false], ['[{"type":"x"}]', false]]) {
    assert.equal(toolsProblem(text) === null, isFine, text);
  }
});

test("load: gauges from Prometheus text", () => {
  const text = '# HELP a b\n# TYPE a gauge\ncachalot_requests_running 2\ncachalot_requests_waiting{x="}"} 1\ncachalot_kv_blocks_in_use 5\ncachalot_kv_blocks_total 20\n';
  assert.deepEqual(readLoad(text.replace('{x="}"}', '{x="y"}')), { running: 2, waiting: 1, blocksInUse: 5, blocksTotal: 20, cacheUse: 0.25 });
  assert.equal(readLoad("nothing"), null);
  assert.equal(readLoad("cachalot_requests_running NaN"), null);
});
