// An assistant message as it grows, and how messages go back to the server. Plain data: nothing here knows the page.
//
// Messages have the names of the API (`role`, `content`, `reasoning_content`, `tool_calls`, `tool_call_id`). An assistant message
// also keeps `finish_reason`, `defect` (a tool call that could not be read), `failure` (why the request failed), `wasStopped`, and
// `timing`.

// An error event inside a stream, or a chunk that is none.
export class StreamError extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

export function newReply(now) {
  return {
    role: "assistant",
    content: "",
    reasoning_content: null,
    tool_calls: [],
    finish_reason: null,
    timing: { sent: now, first: null, thought: null, last: null, numTokens: 0, hasUsage: false },
  };
}

// Adds the data of one event; false after the last. `now` is in milliseconds.
export function addEvent(reply, data, now) {
  if (data === "[DONE]") return false;
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new StreamError("The server sent an event that is not JSON.", "bad_event");
  }
  if (chunk?.error) throw new StreamError(textOf(chunk.error.message) || "The request failed.", chunk.error.code);
  const choice = chunk?.choices?.[0];
  if (choice) addChoice(reply, choice, now);
  if (chunk?.usage) addUsage(reply.timing, chunk.usage);
  return true;
}

const textOf = (value) => (typeof value === "string" ? value : "");

function addChoice(reply, choice, now) {
  const { timing } = reply;
  const delta = choice.delta ?? {};
  const reasoning = textOf(delta.reasoning_content);
  const content = textOf(delta.content);
  const calls = Array.isArray(delta.tool_calls) ? delta.tool_calls : [];
  // The chunk with nothing but the role, and the one that ends the choice, stand for no token.
  const isEmpty = reasoning === "" && content === "" && calls.length === 0;
  if (!(isEmpty && (delta.role !== undefined || choice.finish_reason))) {
    timing.first ??= now;
    timing.last = now;
    if (!timing.hasUsage) timing.numTokens++;
  }
  if (typeof delta.reasoning_content === "string") reply.reasoning_content = (reply.reasoning_content ?? "") + reasoning;
  reply.content += content;
  for (const call of calls) addCall(reply.tool_calls, call);
  if ((content !== "" || calls.length > 0) && reply.reasoning_content !== null) timing.thought ??= now;
  if (choice.finish_reason) reply.finish_reason = choice.finish_reason;
  if (choice.error) reply.defect = { message: textOf(choice.error.message), text: textOf(choice.error.text) };
}

function addCall(calls, delta) {
  const index = Number.isInteger(delta.index) ? delta.index : calls.length;
  // Calls come in order; an index far ahead would make holes.
  if (index < 0 || index > calls.length) return;
  calls[index] ??= { id: "", name: "", arguments: "" };
  const call = calls[index];
  call.id ||= textOf(delta.id);
  call.name ||= textOf(delta.function?.name);
  call.arguments += textOf(delta.function?.arguments);
}

function addUsage(timing, usage) {
  if (!Number.isFinite(usage.completion_tokens)) return;
  timing.numTokens = usage.completion_tokens;
  timing.promptTokens = usage.prompt_tokens;
  timing.cachedTokens = usage.prompt_cache_hit_tokens;
  timing.hasUsage = true;
}

// What the numbers under an answer say: seconds to the first token, and tokens per second after it.
export function speed(timing, now) {
  if (timing.first === null) return { firstTokenSeconds: null, tokensPerSecond: null };
  const seconds = ((now ?? timing.last) - timing.first) / 1000;
  return {
    firstTokenSeconds: (timing.first - timing.sent) / 1000,
    tokensPerSecond: seconds > 0 && timing.numTokens > 1 ? (timing.numTokens - 1) / seconds : null,
  };
}

// How long the model thought, in seconds; up to now if it still does.
export function thinkingSeconds(timing, now) {
  const end = timing.thought ?? now ?? timing.last;
  return timing.first === null || end === null ? null : Math.max(0, end - timing.first) / 1000;
}

export function isJsonObject(text) {
  if (text.trim() === "") return true;
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value);
  } catch {
    return false;
  }
}

// Sets valid JSON over several lines. Its own text is kept: parsing and writing it anew would round long numbers.
export function indentJson(text) {
  let indented = "";
  let depth = 0;
  const newLine = () => `\n${"  ".repeat(Math.min(depth, 20))}`;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s"[\]{},:]+/g)) {
    const before = indented.at(-1);
    if (token === "}" || token === "]") {
      depth--;
      indented += (before === "{" || before === "[" ? "" : newLine()) + token;
    } else {
      if (before === "{" || before === "[" || before === ",") indented += newLine();
      indented += token === ":" ? ": " : token;
      if (token === "{" || token === "[") depth++;
    }
  }
  return indented;
}

// Whether the calls of a message are whole, so that they can be answered and sent back.
export function hasWholeCalls(message) {
  const { tool_calls: calls } = message;
  return calls?.length > 0 && message.finish_reason === "tool_calls" && calls.every((call) => isJsonObject(call.arguments));
}

// The calls at the end of a conversation that wait for results.
export function openCalls(messages) {
  const last = messages.findLast((message) => message.role !== "tool");
  if (last?.role !== "assistant" || !hasWholeCalls(last)) return [];
  const numResults = messages.length - 1 - messages.lastIndexOf(last);
  return last.tool_calls.slice(numResults);
}

// The messages of a request. Reasoning goes back with the messages of a running tool turn and no others; what is cut off or has
// failed goes back as the text it has.
export function requestMessages(messages, systemPrompt) {
  const sent = systemPrompt.trim() === "" ? [] : [{ role: "system", content: systemPrompt }];
  const lastUser = messages.findLastIndex((message) => message.role === "user");
  messages.forEach((message, index) => {
    if (message.role === "user") {
      const before = sent.at(-1);
      // After an answer that failed without a word two messages of the user meet; some releases take turns strictly.
      if (before?.role === "user") before.content += `\n\n${message.content}`;
      else sent.push({ role: "user", content: message.content });
    } else if (message.role === "tool") {
      sent.push({ role: "tool", tool_call_id: message.tool_call_id, content: message.content });
    } else {
      const calls = hasWholeCalls(message) ? message.tool_calls : [];
      if (message.content === "" && calls.length === 0) return;
      const assistant = { role: "assistant", content: message.content };
      if (calls.length > 0) {
        assistant.tool_calls = calls.map(({ id, name, arguments: text }) => {
          return { id, type: "function", function: { name, arguments: text.trim() === "" ? "{}" : text } };
        });
      }
      if (index > lastUser) assistant.reasoning_content = message.reasoning_content ?? "";
      sent.push(assistant);
    }
  });
  return sent;
}

// The body of a request for a reply.
export function requestBody(messages, settings) {
  const body = {
    messages: requestMessages(messages, settings.systemPrompt),
    stream: true,
    stream_options: { include_usage: true },
  };
  if (settings.model !== "") body.model = settings.model;
  if (settings.thinking !== "default") body.thinking = { type: settings.thinking === "on" ? "enabled" : "disabled" };
  if (settings.temperature !== null) body.temperature = settings.temperature;
  if (settings.maxTokens !== null) body.max_tokens = settings.maxTokens;
  if (settings.tools.trim() !== "") body.tools = JSON.parse(settings.tools);
  return body;
}
