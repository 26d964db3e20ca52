// The page in Chromium: against the release binary, and against a server that says what each test needs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { test } from "./harness.mjs";
import { axePath, chromium, OUTPUT } from "./paths.mjs";
import { FakeServer, pause, startReal } from "./servers.mjs";

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const real = await startReal();
const fake = await FakeServer.start(real.address);

export async function close() {
  await browser.close();
  await fake.stop();
  await real.stop();
}

const WAIT = { timeout: 20_000 };
const axeSource = readFileSync(axePath, "utf8");

// Runs `body` with a page of its own. The test fails if the page logs an error, throws, breaks its policy, or asks anyone else
// for anything; `expected` is what the test provokes.
function pageTest(name, { address = () => fake.address, expected = null, context: options = {}, before } = {}, body) {
  test(name, async () => {
    fake.reset();
    const context = await browser.newContext({ viewport: { width: 1180, height: 800 }, reducedMotion: "reduce", ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(WAIT.timeout);
    const problems = [];
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type()) && !expected?.test(message.text())) problems.push(`console: ${message.text()}`);
    });
    page.on("pageerror", (error) => problems.push(`thrown: ${error.stack}`));
    page.on("request", (request) => {
      const { protocol, origin } = new URL(request.url());
      if (protocol !== "blob:" && origin !== address()) problems.push(`foreign: ${request.url()}`);
    });
    await page.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
    });
    try {
      await before?.(page);
      await page.goto(address());
      await body(page);
      assert.deepEqual(problems, []);
    } catch (error) {
      await page.screenshot({ path: `${OUTPUT}/failed.png` }).catch(() => {});
      throw problems.length > 0 ? new Error(`${problems.join("\n")}\n${error.stack}`) : error;
    } finally {
      await context.close();
    }
  });
}

const REFUSED = /Failed to load resource/;

async function send(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

const answer = (page) => page.locator(".message.assistant").last();
const isIdle = (page) => page.locator("#send").waitFor({ state: "visible" });

async function setSettings(page, change) {
  await page.getByRole("button", { name: "Settings" }).click();
  await change(page.locator("#settings"));
  await page.getByRole("button", { name: "Save" }).click();
}

async function checkAccessibility(page, what) {
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const lines = serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.target} ${node.failureSummary}`).join("; ")}`);
  assert.deepEqual(lines, [], what);
}

const shoot = (page, name) => page.screenshot({ path: `${OUTPUT}/${name}.png` });

// ------------------------------------------------------------------------------------------------------- the real server

const onReal = { address: () => real.address };

pageTest("real: a message is answered as a stream, with its numbers", onReal, async (page) => {
  await setSettings(page, (form) => form.getByLabel("Most tokens").fill("48"));
  await send(page, "How deep does a whale dive?");
  await page.locator(".message.user .bubble", { hasText: "How deep does a whale dive?" }).waitFor();
  await answer(page).locator(".speed").waitFor();
  await isIdle(page);
  // A random model may end its answer with the first token, which has no speed.
  const numbers = () => answer(page).locator(".speed").textContent();
  for (let attempt = 0; attempt < 20 && /^[01] tokens? /.test(await numbers()); attempt++) {
    await page.getByRole("button", { name: "Regenerate" }).click();
    await answer(page).locator(".speed").waitFor();
    await isIdle(page);
  }
  await answer(page).locator(".markdown").waitFor();
  assert.match(await numbers(), /^\d+ tokens · [\d.]+ tokens\/s · first after [\d.]+ s$/);
  assert.equal(await page.locator("#conversations .current .open").textContent(), "How deep does a whale dive?");
  assert.match(await page.title(), /^How deep does a whale dive\? · cachalot$/);
  // The live view has been filled from the server's own metrics.
  await page.locator("#load").waitFor();
  assert.match(await page.locator("#load-cache").getAttribute("title"), /^\d+ of [1-9]\d* blocks$/);
});

pageTest("real: stop frees the sequence, regenerate asks again", onReal, async (page) => {
  await setSettings(page, (form) => form.getByLabel("Temperature").fill("2"));
  let isStopped = false;
  // A random model may end its answer before it can be stopped.
  for (let attempt = 0; attempt < 20 && !isStopped; attempt++) {
    await send(page, "Go on and on");
    await page.locator("#stop").click({ timeout: 1000 }).catch(() => {});
    await isIdle(page);
    isStopped = await answer(page).getByText("Stopped.").isVisible();
  }
  assert.ok(isStopped);
  const metrics = async () => (await fetch(`${real.address}/metrics`)).text();
  for (let attempt = 0; !/cachalot_requests_running 0/.test(await metrics()); attempt++) {
    assert.ok(attempt < 50, await metrics());
    await pause(100);
  }
  const numAnswers = await page.locator(".message.assistant").count();
  // The text alone is also in the region that tells it to screen readers.
  const stopped = page.locator(".message.assistant", { hasText: "Stopped." });
  const numStopped = await stopped.count();
  await setSettings(page, (form) => form.getByLabel("Most tokens").fill("8"));
  await page.getByRole("button", { name: "Regenerate" }).click();
  await answer(page).locator(".speed", { hasText: "tokens" }).waitFor();
  await isIdle(page);
  assert.equal(await page.locator(".message.assistant").count(), numAnswers);
  assert.equal(await stopped.count(), numStopped - 1);
});

pageTest("real: thinking and tools are requests that the server takes", onReal, async (page) => {
  await setSettings(page, async (form) => {
    await form.getByLabel("Most tokens").fill("12");
    await form.getByLabel("Thinking").selectOption("on");
    await form.getByLabel("Tools").fill('[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]');
    await form.getByLabel("System prompt").fill("Be brief.");
    await form.getByLabel("Model").selectOption("deepseek-chat");
  });
  await send(page, "one");
  await isIdle(page);
  await page.locator(".thinking summary", { hasText: /^Thought for/ }).waitFor();
  await send(page, "two");
  await isIdle(page);
  assert.equal(await page.locator(".note.problem").count(), 0);
});

test("real: keys, asked for by the page when the API asks for one", async () => {
  const keyed = await startReal("--api-key", "let-me-in");
  const context = await browser.newContext();
  try {
    const page = await context.newPage();
    const thrown = [];
    page.on("pageerror", (error) => thrown.push(error.stack));
    await page.goto(keyed.address);
    const dialog = page.getByRole("dialog", { name: "API key" });
    await dialog.getByText("This server asks for an API key.").waitFor(WAIT);
    await dialog.getByLabel("Key", { exact: true }).fill("wrong");
    await page.keyboard.press("Enter");
    await dialog.getByText("Authentication Fails").waitFor(WAIT);
    assert.ok(!(await dialog.textContent()).includes("wrong"));
    await dialog.getByLabel("Key", { exact: true }).fill("let-me-in");
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "hidden", ...WAIT });
    await page.waitForFunction(() => document.querySelector("#set-model").options.length > 1);
    const places = () => page.evaluate(() => [sessionStorage.getItem("cachalot.key"), localStorage.getItem("cachalot.key")]);
    assert.deepEqual(await places(), ["let-me-in", null]);
    await setSettings(page, (form) => form.getByLabel("Most tokens").fill("4"));
    await send(page, "hello");
    await answer(page).locator(".speed", { hasText: "tokens" }).waitFor(WAIT);
    // The key outlives a reload of the tab; remembering it moves it.
    await page.reload();
    await page.waitForFunction(() => document.querySelector("#set-model").options.length > 1);
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByRole("button", { name: "API key" }).click();
    await dialog.getByLabel(/Remember/).check();
    await page.keyboard.press("Enter");
    await dialog.waitFor({ state: "hidden", ...WAIT });
    assert.deepEqual(await places(), [null, "let-me-in"]);
    assert.deepEqual(thrown, []);
  } finally {
    await context.close();
    await keyed.stop();
  }
});

// ------------------------------------------------------------------------------------------------------ what models say

pageTest("thinking is open while it streams, folds for the answer, and has its duration", {}, async (page) => {
  const gates = {};
  const gate = (name) => new Promise((resolve) => (gates[name] = resolve));
  fake.chat = async (writer) => {
    await writer.say("reasoning_content", "The user asks about whales. ");
    await gate("answer");
    await pause(150);
    await writer.say("content", "They dive **deep**.");
    writer.end();
  };
  await setSettings(page, (form) => form.getByLabel("Thinking").selectOption("on"));
  await send(page, "Whales?");
  const details = answer(page).locator("details.thinking");
  await details.getByText("The user asks about whales.").waitFor();
  assert.equal(await details.getAttribute("open"), "");
  assert.match(await details.locator("summary").textContent(), /^Thinking for/);
  gates.answer();
  await answer(page).locator("strong", { hasText: "deep" }).waitFor();
  await isIdle(page);
  assert.equal(await details.getAttribute("open"), null);
  assert.match(await details.locator("summary").textContent(), /^Thought for [\d.]+ s$/);
  assert.deepEqual(fake.requests[0].thinking, { type: "enabled" });
  // Opened by hand it stays open.
  await details.locator("summary").press("Enter");
  await details.getByText("The user asks about whales.").waitFor();
});

const WEATHER = JSON.stringify([
  { type: "function", function: { name: "get_weather", description: "Weather of a place", parameters: { type: "object", properties: { city: { type: "string" } } } } },
]);

pageTest("tool calls are shown as they stream, and answered by the person", {}, async (page) => {
  let goOn;
  fake.chat = async (writer, request) => {
    if (request.messages.at(-1).role === "tool") {
      await writer.say("reasoning_content", "Now I know.");
      await writer.say("content", "Sunny in Paris, rain in Rome.");
      return writer.end();
    }
    if (fake.requests.length > 1) return writer.end();
    await writer.say("reasoning_content", "I need the weather.");
    await writer.say("content", "Let me look.");
    await writer.call(0, "get_weather", '{"city": "Par');
    await new Promise((resolve) => (goOn = resolve));
    writer.delta({ tool_calls: [{ index: 0, function: { arguments: 'is", "n": 12345678901234567890}' } }] });
    await writer.call(1, "get_weather", '{"city": "Rome"}');
    writer.end("tool_calls");
  };
  await setSettings(page, async (form) => {
    await form.getByLabel("Thinking").selectOption("on");
    await form.getByLabel("Tools").fill(WEATHER);
  });
  await send(page, "Weather in Paris and Rome?");
  const calls = page.locator(".call");
  await calls.first().getByText('{"city": "Par', { exact: true }).waitFor();
  goOn();
  await page.getByLabel("Result of get_weather").first().waitFor();
  assert.equal(await calls.count(), 2);
  assert.equal(await calls.first().locator("pre").textContent(), '{\n  "city": "Paris",\n  "n": 12345678901234567890\n}');
  // Sending waits for the results.
  await page.getByText("The model waits for the results").waitFor();
  assert.ok(await page.locator("#send").isDisabled());
  await checkAccessibility(page, "tool calls");
  await shoot(page, "thinking-and-tools");
  await calls.nth(0).getByRole("textbox").fill('{"sky": "clear"}');
  await calls.nth(1).getByRole("textbox").fill("rain");
  await page.getByRole("button", { name: "Send results" }).click();
  await answer(page).getByText("Sunny in Paris, rain in Rome.").waitFor();
  await isIdle(page);
  const [first, second] = fake.requests;
  assert.deepEqual(first.tools, JSON.parse(WEATHER));
  assert.deepEqual(second.messages.slice(1), [
    {
      role: "assistant",
      content: "Let me look.",
      reasoning_content: "I need the weather.",
      tool_calls: [
        { id: "call_00_x", type: "function", function: { name: "get_weather", arguments: '{"city": "Paris", "n": 12345678901234567890}' } },
        { id: "call_01_x", type: "function", function: { name: "get_weather", arguments: '{"city": "Rome"}' } },
      ],
    },
    { role: "tool", tool_call_id: "call_00_x", content: '{"sky": "clear"}' },
    { role: "tool", tool_call_id: "call_01_x", content: "rain" },
  ]);
  assert.equal(await page.locator(".call").getByText("rain", { exact: true }).count(), 1);
  // The real server takes what the fake one was sent, and would refuse it without the reasoning.
  const statusOf = async (body) => {
    const sent = { ...body, stream: false, stream_options: undefined, max_tokens: 2 };
    return (await fetch(`${real.address}/v1/chat/completions`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(sent) })).status;
  };
  assert.equal(await statusOf(second), 200);
  const forgetful = second.messages.map(({ reasoning_content: _, ...message }) => message);
  assert.equal(await statusOf({ ...second, messages: forgetful }), 400);
  // The next turn leaves the reasoning out.
  await send(page, "Thanks");
  await isIdle(page);
  assert.ok(fake.requests[2].messages.every((message) => message.reasoning_content === undefined));
});

const SHOWCASE = `## Diving whales

The sperm whale (*Physeter macrocephalus*) dives **deeper than 2,000 m** and stays for \`60 min\` or more[^1].

1. It fills its blood with oxygen,
2. slows its heart,
   - less blood for the skin
   - more for the brain
3. and lets its lungs collapse.

| Whale | Depth | Time |
|:--|--:|--:|
| Cuvier's beaked whale | 2,992 m | 222 min |
| Sperm whale | 2,250 m | 138 min |
| Elephant seal | 2,388 m | 120 min |

> Pressure grows by one atmosphere each ten metres.

\`\`\`rust
/// The pressure at a depth, in atmospheres.
fn pressure(depth_m: f64) -> f64 {
    1.0 + depth_m / 10.06
}
\`\`\`

- [x] read the [log of dives](https://example.org/dives)
- [ ] ask about ~~fish~~ squid

---

So \\(p = 1 + d/10\\) is close enough.
`;

pageTest("Markdown becomes elements, and code can be copied", { context: { permissions: ["clipboard-read", "clipboard-write"] } }, async (page) => {
  fake.chat = async (writer) => {
    await writer.say("reasoning_content", "A question about diving. I should give depths, a table, and a short piece of code for the pressure.");
    await writer.say("content", "");
    for (const line of SHOWCASE.split(/(?<=\n)/)) writer.delta({ content: line });
    writer.end("stop", { numTokens: 412 });
  };
  await send(page, "How do whales dive so deep?\nA table, please.");
  await isIdle(page);
  const shown = answer(page).locator(".markdown");
  for (const [selector, text] of [
    ["h4", "Diving whales"], ["em", "Physeter macrocephalus"], ["strong", "deeper than 2,000 m"], ["p code", "60 min"], ["ol > li > ul > li", "less blood for the skin"],
    ["table thead th", "Whale"], ["table tbody td", "2,992 m"], ["blockquote", "Pressure grows"], [".language", "rust"], ["pre code", "fn pressure"], ["del", "fish"], [".math", "p = 1 + d/10"],
  ]) {
    assert.ok((await shown.locator(selector, { hasText: text }).count()) > 0, `${selector} ${text}`);
  }
  const link = shown.getByRole("link", { name: "log of dives" });
  assert.deepEqual(
    await link.evaluate(({ href, rel, target }) => [href, rel, target]),
    ["https://example.org/dives", "noopener noreferrer nofollow", "_blank"],
  );
  // The person's own text stays as it was typed.
  assert.equal(await page.locator(".bubble").textContent(), "How do whales dive so deep?\nA table, please.");
  await shown.getByRole("button", { name: "Copy code" }).click();
  await shown.getByRole("button", { name: "Copied" }).waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^\/\/\/ The pressure[^]*\}$/);
  await page.getByRole("button", { name: "Copy answer" }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), SHOWCASE);
  await checkAccessibility(page, "Markdown, light");
  await page.locator("#scroller").evaluate((scroller) => (scroller.scrollTop = 0));
  await shoot(page, "light");
  await page.emulateMedia({ colorScheme: "dark" });
  await checkAccessibility(page, "Markdown, dark");
  await shoot(page, "dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 320, height: 640 });
  await shoot(page, "narrow");
});

const HOSTILE = [
  "<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked=1'>", "<svg/onload=window.hacked=1>", "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
  "[a](javascript:window.hacked=1)", "[b](data:text/html,<script>1</script>)", "[c](JaVaScRiPt:window.hacked=1)", "![d](http://127.0.0.1:9/x.png)", "<javascript:window.hacked=1>",
  "[e](https://example.org/\" onmouseover=\"window.hacked=1)", "```<script>\nwindow.hacked=1\n```", "```\"><img src=x onerror=window.hacked=1>\n</code></pre><script>window.hacked=1</script>\n```",
  "| <img src=x onerror=window.hacked=1> |\n|---|\n| <b onclick=window.hacked=1>x</b> |", "<style>*{display:none}</style><link rel=stylesheet href=http://127.0.0.1:9/x>", "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9'>",
  "<form action=http://127.0.0.1:9><input name=q><button>go</button></form>", "&lt;script&gt;window.hacked=1&lt;/script&gt;", "{{constructor.constructor('window.hacked=1')()}}", "\u202eevil\u202c", "<base href=http://127.0.0.1:9/>",
].join("\n\n");

// The test's own assignment at its end is the only thing that the policy has to refuse.
pageTest("hostile text stays text, wherever it comes from", { expected: /requires 'TrustedHTML' assignment|innerHTML\|<b>x<\/b>/ }, async (page) => {
  fake.chat = async (writer) => {
    writer.delta({ reasoning_content: HOSTILE });
    for (const [piece] of HOSTILE.matchAll(/.{1,7}/gs)) writer.delta({ content: piece });
    await writer.call(0, "<img src=x onerror=window.hacked=1>", JSON.stringify({ a: HOSTILE }));
    writer.end("stop", { error: { type: "malformed_tool_call", message: HOSTILE, text: HOSTILE } });
  };
  fake.models = [HOSTILE];
  await send(page, HOSTILE);
  await isIdle(page);
  await page.reload();
  await page.locator(".message.assistant").waitFor({ state: "detached" }).catch(() => {});
  await page.locator("#conversations .open").first().click();
  await answer(page).waitFor();
  const inside = page.locator(".message, .conversations, #mode");
  const found = await inside.evaluateAll((roots) => {
    const bad = "script, img, iframe, style, link, meta, base, form, object, embed, video, [srcdoc], [style], [onerror], [onload], [onclick], [onmouseover]";
    return roots.flatMap((root) => [...root.querySelectorAll(bad)].map((element) => element.outerHTML.slice(0, 100)));
  });
  assert.deepEqual(found, []);
  const addresses = await inside.locator("a").evaluateAll((links) => links.map((link) => link.protocol));
  assert.ok(addresses.length > 0 && addresses.every((protocol) => protocol === "https:" || protocol === "http:"), String(addresses));
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  // The policy is the second wall: markup that got in would do nothing.
  const refused = await page.evaluate(() => {
    try {
      document.createElement("div").innerHTML = "<b>x</b>";
      return "taken";
    } catch (error) {
      return error.name;
    }
  }).catch((error) => error.message);
  assert.equal(refused, "TypeError");
});

pageTest("bytes in any pieces, comments between them, and half characters", {}, async (page) => {
  fake.chat = async (writer) => {
    writer.raw(": keep-alive\n\n");
    const text = `data: ${JSON.stringify({ choices: [{ delta: { content: "鲸鱼 🐋 é" } }] })}\r\n\r\n: keep-alive\n\ndata: ${JSON.stringify({ choices: [{ delta: {}, finish_reason: "stop" }] })}\n\ndata: [DONE]\n\n`;
    for (const byte of Buffer.from(text)) {
      writer.raw(Buffer.from([byte]));
      if (byte > 127) await pause(2);
    }
    writer.close();
  };
  await send(page, "Whale?");
  await answer(page).getByText("鲸鱼 🐋 é", { exact: true }).waitFor();
  await isIdle(page);
  assert.equal(await page.locator(".note").count(), 0);
});

// --------------------------------------------------------------------------------------------------------- what goes wrong

for (const [name, chat, shown] of [
  ["a refusal", (writer) => writer.refuse(400, '{"error":{"message":"Invalid temperature value"}}'), "Invalid temperature value"],
  ["an error without JSON", (writer) => writer.refuse(502, "<html>Bad gateway</html>", { "content-type": "text/html" }), "The server answered with status 502: <html>Bad gateway</html>"],
  ["a full queue", (writer) => writer.refuse(503, '{"error":{"message":"The queue is full","code":"queue_full"}}', { "retry-after": "3" }), "The queue is full (try again in 3 s)"],
  ["an answer that is no stream", (writer) => writer.refuse(200, "{}"), "instead of a stream of events"],
  ["an error in the stream", (writer) => {
    writer.delta({ content: "half" });
    writer.event({ error: { message: "The request failed: out of luck", code: "internal_error" } });
    writer.close();
  }, "The request failed: out of luck"],
  ["a stream that ends early", (writer) => {
    writer.delta({ content: "half" });
    writer.close();
  }, "The connection ended before the answer did."],
  ["an event that is not JSON", (writer) => {
    writer.raw("data: {oops\n\n");
    writer.close();
  }, "an event that is not JSON"],
]) {
  pageTest(`failure: ${name} is said, and can be tried again`, { expected: REFUSED }, async (page) => {
    fake.chat = chat;
    await send(page, "Hello");
    await answer(page).locator(".note.problem").getByText(shown).waitFor();
    fake.chat = async (writer) => {
      await writer.say("content", "Better now.");
      writer.end();
    };
    await page.getByRole("button", { name: "Try again" }).click();
    await answer(page).getByText("Better now.").waitFor();
    await isIdle(page);
    assert.equal(await page.locator(".note.problem").count(), 0);
    assert.deepEqual(fake.requests[1].messages, [{ role: "user", content: "Hello" }]);
  });
}

pageTest("failure: a connection that breaks keeps what came", { expected: /Failed to load resource|net::/ }, async (page) => {
  fake.chat = async (writer) => {
    writer.delta({ content: "The first half" });
    await pause(200);
    writer.destroy();
  };
  await send(page, "Hello");
  await answer(page).getByText("The connection to the server broke.").waitFor();
  await answer(page).getByText("The first half").waitFor();
});

pageTest("failure: a tool call that could not be read, and an answer that is cut off", {}, async (page) => {
  fake.chat = async (writer) => {
    writer.end("stop", { error: { type: "malformed_tool_call", message: "the call has no name", text: "<invoke>" } });
  };
  await send(page, "Call");
  await answer(page).getByText("could not be read: the call has no name").waitFor();
  await answer(page).getByText("What it wrote").click();
  await answer(page).getByText("<invoke>").waitFor();
  fake.chat = async (writer) => {
    await writer.call(0, "f", '{"a": ');
    writer.end("length");
  };
  await send(page, "Again");
  await answer(page).getByText("cut off at the limit of tokens").waitFor();
  await answer(page).getByText("is not complete, so it cannot be answered").waitFor();
  assert.equal(await page.getByLabel(/Result of/).count(), 0);
  // The half call is not sent back.
  fake.chat = async (writer) => writer.end();
  await send(page, "Go on");
  await answer(page).getByText("The answer is empty.").waitFor();
  assert.deepEqual(fake.requests[2].messages, [{ role: "user", content: "Call\n\nAgain\n\nGo on" }]);
});

pageTest("failure: a key that is refused in the middle is asked for, and the request sent again", { expected: REFUSED }, async (page) => {
  await page.waitForFunction(() => document.querySelector("#set-model").options.length === 3);
  fake.key = "new-key";
  fake.chat = async (writer) => {
    await writer.say("content", "Welcome.");
    writer.end();
  };
  await send(page, "Hello");
  const dialog = page.getByRole("dialog", { name: "API key" });
  await dialog.getByText("Authentication Fails: no API key").waitFor();
  await checkAccessibility(page, "key dialog");
  await dialog.getByLabel("Key", { exact: true }).fill("new-key");
  await dialog.getByRole("button", { name: "Use this key" }).click();
  await answer(page).getByText("Welcome.").waitFor();
});

pageTest("a server that loads or is away is waited for", {
  expected: /Failed to load resource/,
  before: () => (fake.health = { status: 503, body: '{"error":{"message":"The model is still being loaded","code":"loading"}}' }),
}, async (page) => {
  await page.getByText("The model is still being loaded. This page waits for it.").waitFor();
  assert.ok(await page.locator("#send").isDisabled());
  // What is typed meanwhile is not lost.
  await send(page, "Are you there?");
  assert.equal(fake.requests.length, 0);
  await shoot(page, "loading");
  fake.health = { status: 200, body: "{}" };
  await page.locator("#banner").waitFor({ state: "hidden" });
  fake.chat = async (writer) => {
    await writer.say("content", "Here.");
    writer.end();
  };
  await page.getByLabel("Message", { exact: true }).press("Enter");
  await answer(page).getByText("Here.").waitFor();
});

// -------------------------------------------------------------------------------------------------------- using the page

pageTest("stop ends the request and keeps what came; another conversation can be opened meanwhile", {}, async (page) => {
  let writers = [];
  fake.chat = async (writer) => {
    writers.push(writer);
    await writer.say("content", "on and on ".repeat(2000), 10);
  };
  await send(page, "First");
  await answer(page).getByText("on and on").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await answer(page).getByText("Stopped.").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "prompt");
  await send(page, "Second");
  await page.locator(".message.assistant").nth(1).getByText("on and on").waitFor();
  await page.getByRole("button", { name: "New conversation" }).click();
  await page.locator("#send").waitFor();
  await page.getByText("How deep shall we dive?").waitFor();
  await pause(300);
  assert.ok(writers.every((writer) => writer.isClosed));
  // Both answers are in the conversation that was left.
  await page.locator("#conversations .open", { hasText: "First" }).click();
  assert.equal(await page.locator(".message.assistant").count(), 2);
  assert.equal(await page.getByText("Stopped.").count(), 2);
});

const echo = async (writer, request) => {
  await writer.say("content", `You said ${request.messages.at(-1).content}`);
  writer.end();
};

pageTest("the last message can be edited, and editing cancelled", {}, async (page) => {
  fake.chat = echo;
  await send(page, "first");
  await isIdle(page);
  await send(page, "secnd");
  await answer(page).getByText("You said secnd").waitFor();
  await isIdle(page);
  assert.equal(await page.getByRole("button", { name: "Edit message" }).count(), 1);
  await page.getByRole("button", { name: "Edit message" }).click();
  await page.getByText("Editing your last message.").waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#prompt").inputValue(), "");
  assert.equal(await page.locator(".message").count(), 4);
  await page.getByRole("button", { name: "Edit message" }).click();
  assert.equal(await page.locator("#prompt").inputValue(), "secnd");
  await send(page, "second");
  await answer(page).getByText("You said second").waitFor();
  assert.deepEqual(fake.requests[2].messages.map((message) => message.content), ["first", "You said first", "second"]);
  assert.equal(await page.locator(".message").count(), 4);
  await isIdle(page);
  // Editing stops an answer that is still coming.
  fake.chat = (writer) => writer.say("content", "tick ".repeat(500), 10);
  await send(page, "thrid");
  await answer(page).getByText("tick").waitFor();
  await page.getByRole("button", { name: "Edit message" }).click();
  await isIdle(page);
  assert.equal(await page.locator("#prompt").inputValue(), "thrid");
  fake.chat = echo;
  await send(page, "third");
  await answer(page).getByText("You said third").waitFor();
  assert.equal(await page.locator(".message").count(), 6);
});

pageTest("settings and conversations outlive a reload; bad settings are refused", {}, async (page) => {
  fake.chat = echo;
  await setSettings(page, async (form) => {
    await form.getByLabel("Model").selectOption("deepseek-reasoner");
    await form.getByLabel("Temperature").fill("0,3");
    await form.getByLabel("Most tokens").fill("99");
    await form.getByLabel("System prompt").fill("Be kind.");
    await form.getByLabel("Colors").selectOption("dark");
  });
  await send(page, "remember me");
  await isIdle(page);
  await page.reload();
  assert.equal(await page.locator("html").getAttribute("data-theme"), "dark");
  await page.locator("#conversations .open", { hasText: "remember me" }).click();
  await answer(page).getByText("You said remember me").waitFor();
  await send(page, "again");
  await isIdle(page);
  const { model, temperature, max_tokens, messages, thinking } = fake.requests[1];
  assert.deepEqual([model, temperature, max_tokens, thinking, messages[0]], ["deepseek-reasoner", 0.3, 99, undefined, { role: "system", content: "Be kind." }]);
  assert.equal(messages.length, 4);

  await page.getByRole("button", { name: "Settings" }).click();
  await checkAccessibility(page, "settings");
  await shoot(page, "settings");
  const form = page.locator("#settings");
  for (const [label, value, problem] of [
    ["Temperature", "3", "A number from 0 to 2"],
    ["Temperature", "hot", "A number from 0 to 2"],
    ["Most tokens", "1.5", "A whole number from 1"],
    ["Most tokens", "0", "A whole number from 1"],
    ["Tools", "{", "This is not JSON"],
    ["Tools", "[{}]", 'Tool 1 needs "type"'],
  ]) {
    await form.getByLabel(label).fill(value);
    await form.getByRole("button", { name: "Save" }).click();
    await form.getByText(problem).waitFor();
    assert.equal(await form.getByLabel(label).getAttribute("aria-invalid"), "true");
    await form.getByLabel(label).fill("");
  }
  await form.getByRole("button", { name: "Cancel" }).click();
  await form.waitFor({ state: "hidden" });
});

pageTest("a page that is left in the middle of an answer keeps what came", {}, async (page) => {
  fake.chat = (writer) => writer.say("content", "tick ".repeat(500), 10);
  await send(page, "Tick");
  await answer(page).getByText("tick tick tick").waitFor();
  await page.reload();
  await page.locator("#conversations .open", { hasText: "Tick" }).click();
  await answer(page).getByText("tick tick tick").waitFor();
  await answer(page).getByText("The page was left before the answer ended.").waitFor();
  fake.chat = echo;
  await page.getByRole("button", { name: "Regenerate" }).click();
  await answer(page).getByText("You said Tick").waitFor();
});

pageTest("conversations can be exported and deleted", { context: { acceptDownloads: true } }, async (page) => {
  fake.chat = echo;
  for (const text of ["one", "two"]) {
    await page.getByRole("button", { name: "New conversation" }).click();
    await send(page, text);
    await isIdle(page);
  }
  const exported = async (click) => {
    const [download] = await Promise.all([page.waitForEvent("download"), click()]);
    return [download.suggestedFilename(), JSON.parse(readFileSync(await download.path(), "utf8"))];
  };
  // The buttons of a conversation come to sight with the pointer.
  const entry = page.locator("#conversations li", { hasText: "one" });
  await entry.hover();
  const [name, single] = await exported(() => page.getByRole("button", { name: "Export “one”" }).click());
  assert.equal(name, "cachalot-one.json");
  assert.deepEqual(single.conversations.map((saved) => saved.messages.map((message) => message.content)), [["one", "You said one"]]);
  await page.getByRole("button", { name: "Settings" }).click();
  const [, all] = await exported(() => page.getByRole("button", { name: "Export conversations" }).click());
  assert.equal(all.conversations.length, 2);
  await page.keyboard.press("Escape");
  await entry.hover();
  await page.getByRole("button", { name: "Delete “one”" }).click();
  await page.locator("#confirm").getByRole("button", { name: "Cancel" }).click();
  assert.equal(await page.locator("#conversations li").count(), 2);
  await entry.hover();
  await page.getByRole("button", { name: "Delete “one”" }).click();
  await page.locator("#confirm").getByRole("button", { name: "Delete" }).click();
  await page.waitForFunction(() => document.querySelectorAll("#conversations li").length === 1);
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByRole("button", { name: "Delete conversations" }).click();
  await page.locator("#confirm").getByRole("button", { name: "Delete" }).click();
  await page.getByText("Conversations are kept in this browser").waitFor();
  assert.deepEqual(await page.evaluate(() => Object.keys(localStorage).filter((key) => key.includes("conversation"))), []);
});

pageTest("everything is within reach of the keyboard", {}, async (page) => {
  let isStopped = false;
  fake.chat = async (writer) => {
    await writer.say("content", "tick ".repeat(500), 10);
    isStopped = writer.isClosed;
  };
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.id ?? document.activeElement.textContent);
  assert.equal(await focused(), "prompt");
  await page.keyboard.type("line one");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("line two");
  await page.keyboard.press("Enter");
  await answer(page).getByText("tick").waitFor();
  assert.equal(fake.requests[0].messages[0].content, "line one\nline two");
  await page.keyboard.press("Escape");
  await answer(page).getByText("Stopped.").waitFor();
  await pause(200);
  assert.ok(isStopped);
  // From the top of the page the first stop of Tab leads to the message field.
  await page.locator(".skip-link").focus();
  const order = [];
  for (let step = 0; step < 40 && !order.includes("prompt"); step++) {
    order.push(await focused());
    const outline = await page.evaluate(() => {
      // The message field shows it on its frame.
      const { activeElement } = document;
      const { outlineStyle, outlineWidth } = getComputedStyle(activeElement.closest("textarea") ? activeElement.parentElement : activeElement);
      return `${outlineStyle} ${outlineWidth}`;
    });
    assert.match(outline, /^solid [1-9]/, `${order.at(-1)} shows no focus`);
    await page.keyboard.press("Tab");
  }
  for (const name of ["Settings", "new-conversation", "Copy message", "Edit message", "Copy answer", "Regenerate", "prompt"]) {
    assert.ok(order.includes(name), `${name} is not in ${order}`);
  }
  // Regenerate by keyboard, from its button.
  await page.getByRole("button", { name: "Regenerate" }).focus();
  await page.keyboard.press("Enter");
  await page.locator("#stop").waitFor();
  await page.keyboard.press("Escape");
  await answer(page).getByText("Stopped.").waitFor();
  assert.equal(fake.requests.length, 2);
  // Settings by keyboard: opened, closed with Escape, and the focus is back.
  await page.getByRole("button", { name: "Settings" }).focus();
  await page.keyboard.press("Enter");
  await page.locator("#settings").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("#settings").waitFor({ state: "hidden" });
  assert.equal(await focused(), "Settings");
});

pageTest("the skip link is the first stop and leads to the message field", {}, async (page) => {
  const link = page.getByRole("link", { name: "Skip to the message field" });
  await link.focus();
  assert.ok((await link.boundingBox()).y >= 0);
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "prompt");
  const first = await page.evaluate(() => [...document.querySelectorAll("a, button, input, textarea, [tabindex]")][0].className);
  assert.equal(first, "skip-link");
});

pageTest("an input method's Enter chooses a word and sends nothing", {}, async (page) => {
  fake.chat = echo;
  await page.locator("#prompt").fill("ni hao");
  await page.locator("#prompt").evaluate((field) => field.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", isComposing: true, bubbles: true })));
  await pause(100);
  assert.equal(fake.requests.length, 0);
  await page.locator("#prompt").press("Enter");
  await answer(page).getByText("You said ni hao").waitFor();
});

pageTest("a screen reader hears the finished answer once, not its tokens", {}, async (page) => {
  await page.evaluate(() => {
    window.said = [];
    new MutationObserver(() => window.said.push(document.querySelector("#announcer").textContent)).observe(document.querySelector("#announcer"), { childList: true, subtree: true, characterData: true });
  });
  fake.chat = async (writer) => {
    await writer.say("content", "one two three four five six seven", 20);
    writer.end();
  };
  await send(page, "Count");
  await isIdle(page);
  assert.deepEqual(await page.evaluate(() => window.said), ["Answering", "one two three four five six seven"]);
  const isInLiveRegion = await answer(page).evaluate((message) => message.closest("[aria-live], [role=log], [role=status]") !== null);
  assert.ok(!isInLiveRegion);
  assert.equal(await answer(page).getAttribute("aria-busy"), "false");
  for (const landmark of ["banner", "main", "complementary", "navigation"]) assert.equal(await page.getByRole(landmark).count(), 1, landmark);
});

pageTest("colors follow the system and the switch", {}, async (page) => {
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const [light, dark] = ["rgb(247, 249, 250)", "rgb(13, 21, 27)"];
  assert.equal(await background(), light);
  await page.emulateMedia({ colorScheme: "dark" });
  assert.equal(await background(), dark);
  await setSettings(page, (form) => form.getByLabel("Colors").selectOption("light"));
  assert.equal(await background(), light);
  await page.emulateMedia({ colorScheme: "light" });
  await setSettings(page, (form) => form.getByLabel("Colors").selectOption("dark"));
  assert.equal(await background(), dark);
  await setSettings(page, (form) => form.getByLabel("Colors").selectOption("system"));
  assert.equal(await background(), light);
  await checkAccessibility(page, "empty page");
  await shoot(page, "welcome");
});

pageTest("320 pixels are enough for everything", { context: { viewport: { width: 320, height: 600 } } }, async (page) => {
  fake.chat = async (writer) => {
    writer.delta({ reasoning_content: "x".repeat(300) });
    writer.delta({ content: `${SHOWCASE}\n${"y".repeat(300)} \`${"z".repeat(300)}\`\n\n| ${"wide ".repeat(30)} | ${"w".repeat(80)} |\n|---|---|\n| a | b |\n\n# ${"h".repeat(90)}\n\n> ${"q".repeat(90)}\n` });
    await writer.call(0, "n".repeat(64), JSON.stringify({ long: "v".repeat(300) }));
    writer.end("tool_calls");
  };
  fake.models = ["m".repeat(120)];
  await send(page, "u".repeat(300));
  await page.getByLabel(/^Result of/).waitFor();
  const overflow = () =>
    page.evaluate(() => [document.documentElement, document.body, document.querySelector("#scroller")].map((box) => box.scrollWidth - box.clientWidth));
  assert.deepEqual(await overflow(), [0, 0, 0]);
  await page.locator("details.thinking summary").click();
  assert.deepEqual(await overflow(), [0, 0, 0]);
  await checkAccessibility(page, "narrow");
  await page.getByRole("button", { name: "Settings" }).click();
  assert.deepEqual(await page.locator("#settings, #settings .scroll").evaluateAll((boxes) => boxes.map((box) => box.scrollWidth - box.clientWidth)), [0, 0]);
  await shoot(page, "narrow-settings");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Conversations" }).click();
  await page.getByRole("button", { name: "New conversation" }).waitFor();
  await shoot(page, "narrow-menu");
  assert.deepEqual(await overflow(), [0, 0, 0]);
  await checkAccessibility(page, "menu");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "New conversation" }).waitFor({ state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.id), "menu");
  // A window that grows while the menu is open is usable.
  await page.getByRole("button", { name: "Conversations" }).click();
  await page.setViewportSize({ width: 1000, height: 600 });
  await page.waitForFunction(() => !document.querySelector("main").inert);
});

pageTest("the menu takes the focus while it still moves", { context: { viewport: { width: 320, height: 600 }, reducedMotion: "no-preference" } }, async (page) => {
  await page.getByRole("button", { name: "Conversations" }).click();
  assert.equal(await page.evaluate(() => document.activeElement.id), "new-conversation");
});

pageTest("motion is left out for whoever asks, and there for others", {}, async (page) => {
  let end;
  fake.chat = async (writer) => {
    writer.raw(": keep-alive\n\n");
    await new Promise((resolve) => (end = resolve));
    writer.end();
  };
  await send(page, "Hello");
  const pulse = page.locator(".pulse");
  await pulse.waitFor();
  const motion = () => pulse.evaluate((element) => getComputedStyle(element).animationName);
  assert.equal(await motion(), "none");
  await page.emulateMedia({ reducedMotion: "no-preference" });
  assert.equal(await motion(), "breathe");
  end();
  await isIdle(page);
});

pageTest("without JavaScript the page says what it needs", { context: { javaScriptEnabled: false } }, async (page) => {
  const note = page.locator("noscript p");
  await note.waitFor();
  assert.match(await note.textContent(), /^This page needs JavaScript\./);
  assert.ok((await note.boundingBox()).height > 10);
});

pageTest("the live view follows the metrics and says quietly when there are none", { expected: REFUSED }, async (page) => {
  await page.locator("#load").waitFor();
  assert.deepEqual(await page.locator("#load dd").allTextContents(), ["3", "1", "25 %"]);
  assert.equal(await page.locator("#load-bar").evaluate((bar) => bar.style.width), "25%");
  fake.metrics = null;
  await page.getByText("Not available from this server.").waitFor();
  assert.ok(await page.locator("#load").isHidden());
  assert.equal(await page.locator("#banner").isVisible(), false);
});

pageTest("a page that nobody sees does not ask for metrics", {}, async (page) => {
  const become = (state) =>
    page.evaluate((value) => {
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => value });
      document.dispatchEvent(new Event("visibilitychange"));
    }, state);
  await page.locator("#load").waitFor();
  await become("hidden");
  await pause(300);
  const before = fake.numMetricsRequests;
  await pause(4500);
  assert.equal(fake.numMetricsRequests, before);
  await become("visible");
  await pause(500);
  assert.ok(fake.numMetricsRequests > before);
});

pageTest("broken storage is no reason to fail", { before: (page) => page.addInitScript(() => {
  localStorage.setItem("cachalot.settings", "{broken");
  localStorage.setItem("cachalot.conversation.x", '{"id":"x","title":"t","updated":1,"messages":[{"role":"assistant"}]}');
}) }, async (page) => {
  fake.chat = echo;
  await send(page, "Hello");
  await answer(page).getByText("You said Hello").waitFor();
  assert.equal(await page.locator("#conversations li").count(), 1);
});

pageTest("a long answer costs in proportion to its length, and settled blocks are not touched", {}, async (page) => {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  const busy = async () => {
    const { metrics } = await session.send("Performance.getMetrics");
    return metrics.find(({ name }) => name === "TaskDuration").value;
  };
  const costs = [];
  for (const numTokens of [1000, 4000]) {
    fake.chat = async (writer) => {
      for (let number = 0; number < numTokens; number++) {
        writer.delta({ content: number % 40 === 39 ? ".\n\n" : ` word${number}` });
        if (number % 8 === 0) await pause(4);
      }
      writer.end("stop", { numTokens });
    };
    await page.getByRole("button", { name: "New conversation" }).click();
    const before = await busy();
    await send(page, "Write");
    const first = answer(page).locator(".markdown > p").first();
    await answer(page).locator(".markdown > p").nth(3).waitFor();
    await first.evaluate((paragraph) => (paragraph.marked = true));
    await isIdle(page);
    costs.push((await busy()) - before);
    assert.ok(await first.evaluate((paragraph) => paragraph.marked === true), "the first paragraph was made anew");
    assert.equal(await answer(page).locator(".markdown > p").count(), numTokens / 40);
    assert.match(await answer(page).locator(".speed").textContent(), new RegExp(`^${numTokens} tokens`));
  }
  console.log(`      busy for ${costs.map((cost) => cost.toFixed(2)).join(" and ")} s of 1000 and 4000 tokens`);
  assert.ok(costs[1] < costs[0] * 9 + 1, String(costs));
});

pageTest("the page follows the end of an answer until the person scrolls away", {}, async (page) => {
  fake.chat = async (writer) => {
    for (let line = 0; line < 120 && !writer.isClosed; line++) {
      writer.delta({ content: `line ${line}\n\n` });
      await pause(25);
    }
    writer.end();
  };
  await send(page, "Write");
  await answer(page).getByText("line 60", { exact: true }).waitFor();
  const fromEnd = () => page.locator("#scroller").evaluate((box) => box.scrollHeight - box.scrollTop - box.clientHeight);
  assert.ok((await fromEnd()) < 100);
  await page.locator("#scroller").evaluate((box) => (box.scrollTop = 0));
  await answer(page).getByText("line 90", { exact: true }).waitFor();
  assert.ok((await fromEnd()) > 500);
  await page.getByRole("button", { name: "Latest" }).click();
  assert.ok((await fromEnd()) < 100);
  await isIdle(page);
  assert.ok((await fromEnd()) < 100);
});
