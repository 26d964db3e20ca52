// What the page keeps in this browser: settings, conversations, the key.
//
// Each conversation has an entry of its own, so that two tabs do not overwrite each other's. Storage can be full, blocked, or
// hold what another version wrote: everything read is checked, and what cannot be kept is only lost with the page.

const PREFIX = "cachalot.";
const CONVERSATION = `${PREFIX}conversation.`;
const MAX_CONVERSATIONS = 100;
// Browsers allow some five million characters; the newest conversations get most of them.
const MAX_CHARACTERS = 4_000_000;

export const DEFAULT_SETTINGS = Object.freeze({
  model: "",
  thinking: "default",
  temperature: null,
  maxTokens: null,
  systemPrompt: "",
  tools: "",
  theme: "system",
});

const isOneOf = (...values) => (value) => values.includes(value);
const isText = (value) => typeof value === "string";
const isNumberIn = (low, high) => (value) => value === null || (Number.isFinite(value) && value >= low && value <= high);

const SETTING_CHECKS = {
  model: isText,
  thinking: isOneOf("default", "on", "off"),
  temperature: isNumberIn(0, 2),
  maxTokens: isNumberIn(1, 10_000_000),
  systemPrompt: isText,
  tools: (value) => isText(value) && toolsProblem(value) === null,
  theme: isOneOf("system", "light", "dark"),
};

// What is wrong with the text of a tools array, or null.
export function toolsProblem(text) {
  if (text.trim() === "") return null;
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    return `This is not JSON: ${error.message}`;
  }
  if (!Array.isArray(tools)) return "A JSON array is needed: [{\"type\": \"function\", …}].";
  const index = tools.findIndex((tool) => tool?.type !== "function" || typeof tool.function?.name !== "string");
  if (index >= 0) return `Tool ${index + 1} needs "type": "function" and a "function" with a "name".`;
  return null;
}

export class Store {
  #storage;

  constructor(storage) {
    this.#storage = storage;
  }

  #read(key) {
    try {
      return JSON.parse(this.#storage.getItem(key));
    } catch {
      return null;
    }
  }

  #write(key, text) {
    try {
      this.#storage.setItem(key, text);
      return true;
    } catch {
      return false;
    }
  }

  settings() {
    const saved = this.#read(`${PREFIX}settings`) ?? {};
    const settings = { ...DEFAULT_SETTINGS };
    for (const [name, isValid] of Object.entries(SETTING_CHECKS)) {
      if (Object.hasOwn(saved, name) && isValid(saved[name])) settings[name] = saved[name];
    }
    return settings;
  }

  saveSettings(settings) {
    return this.#write(`${PREFIX}settings`, JSON.stringify(settings));
  }

  // All conversations, the latest first.
  conversations() {
    return this.#keys()
      .map((key) => this.#read(key))
      .filter(isConversation)
      .sort((one, other) => other.updated - one.updated);
  }

  #keys() {
    try {
      return Array.from({ length: this.#storage.length }, (_, index) => this.#storage.key(index)).filter((key) =>
        key.startsWith(CONVERSATION),
      );
    } catch {
      return [];
    }
  }

  // Keeps a conversation, if need be in place of the oldest others. False if there is no room even so.
  save(conversation) {
    const text = JSON.stringify(conversation);
    if (text.length > MAX_CHARACTERS) return false;
    const others = this.conversations().filter((other) => other.id !== conversation.id);
    let numCharacters = text.length;
    let numKept = 0;
    for (const other of others) {
      numCharacters += JSON.stringify(other).length;
      if (numCharacters > MAX_CHARACTERS || numKept + 1 >= MAX_CONVERSATIONS) break;
      numKept++;
    }
    others.splice(numKept).forEach((other) => this.remove(other.id));
    while (!this.#write(CONVERSATION + conversation.id, text)) {
      const oldest = others.pop();
      if (oldest === undefined) return false;
      this.remove(oldest.id);
    }
    return true;
  }

  remove(id) {
    try {
      this.#storage.removeItem(CONVERSATION + id);
    } catch {
      // Blocked storage has nothing to remove.
    }
  }
}

// The API key: for this tab, or for this browser if the person says so.
export class KeyStore {
  static #NAME = `${PREFIX}key`;
  #session;
  #local;
  #key;

  constructor(session, local) {
    this.#session = session;
    this.#local = local;
    this.#key = this.#get(session) ?? this.#get(local) ?? "";
  }

  #get(storage) {
    try {
      return storage.getItem(KeyStore.#NAME);
    } catch {
      return null;
    }
  }

  get key() {
    return this.#key;
  }

  get isRemembered() {
    return this.#get(this.#local) !== null;
  }

  set(key, place) {
    this.#key = key;
    for (const storage of [this.#session, this.#local]) {
      try {
        storage.removeItem(KeyStore.#NAME);
        const isChosen = storage === (place === "browser" ? this.#local : this.#session);
        if (isChosen && key !== "") storage.setItem(KeyStore.#NAME, key);
      } catch {
        // The key then lives as long as the page.
      }
    }
  }
}

export function newConversation(now) {
  return { id: crypto.randomUUID?.() ?? String(now) + Math.random(), title: "", created: now, updated: now, messages: [] };
}

export function titleOf(messages) {
  const first = messages.find((message) => message.role === "user")?.content ?? "";
  const line = first.trim().split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 57).trimEnd()}…` : line;
}

function isConversation(value) {
  return (
    value !== null &&
    typeof value === "object" &&
    isText(value.id) &&
    isText(value.title) &&
    Number.isFinite(value.updated) &&
    Array.isArray(value.messages) &&
    value.messages.every(isMessage)
  );
}

function isMessage(message) {
  if (message === null || typeof message !== "object" || !isText(message.content)) return false;
  if (message.role === "user") return true;
  if (message.role === "tool") return isText(message.tool_call_id);
  if (message.role !== "assistant" || !(message.reasoning_content === null || isText(message.reasoning_content))) return false;
  const isCall = (call) => call !== null && typeof call === "object" && isText(call.id) && isText(call.name) && isText(call.arguments);
  return Array.isArray(message.tool_calls) && message.tool_calls.every(isCall) && typeof message.timing === "object" && message.timing !== null;
}
