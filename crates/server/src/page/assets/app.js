// The chat page: what is on it, and what happens when.

import { Api, ApiFailure } from "./api.js";
import { element, iconButton, ICONS } from "./dom.js";
import { readLoad } from "./load.js";
import { formatSpeed, ReplyView, userView } from "./message-view.js";
import { addEvent, newReply, openCalls, requestBody, StreamError } from "./reply.js";
import { readEvents } from "./sse.js";
import { DEFAULT_SETTINGS, KeyStore, newConversation, Store, titleOf, toolsProblem } from "./store.js";
import { Painter } from "./text-view.js";

const HEALTH_INTERVAL_MS = 1000;
const LOAD_INTERVAL_MS = 2000;
// A page that is still there so long after it was to be left has stayed.
const LEAVING_MS = 2000;
// Closer to the end than this, the page follows the answer.
const FOLLOW_DISTANCE = 80;
// A screen reader gets this much of an answer at once; the rest is in the transcript.
const MAX_ANNOUNCED = 2000;

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));

// Storage can be forbidden as a whole: reading the property then throws.
function storage(name) {
  try {
    return window[name];
  } catch {
    return { length: 0, key: () => null, getItem: () => null, setItem: () => {}, removeItem: () => {} };
  }
}

const store = new Store(storage("localStorage"));
const keys = new KeyStore(storage("sessionStorage"), storage("localStorage"));
const api = new Api(() => keys.key);

let settings = store.settings();
let conversation = newConversation(Date.now());
// The answer that is being streamed: `{ controller, reply, view, painter }`.
let active = null;
let lastView = null;
// Conversations that an answer in flight must not bring back.
const deleted = new Set();
let isEditing = false;
let isReady = false;
let isLeaving = false;
let isFollowing = true;

// --------------------------------------------------------------------------------------------------------- transcript

// Shows the conversation anew.
function showConversation() {
  ui.transcript.replaceChildren();
  lastView = null;
  const { messages } = conversation;
  const lastUser = messages.findLastIndex((message) => message.role === "user");
  messages.forEach((message, index) => {
    if (message.role === "user") {
      ui.transcript.append(userView(message, index === lastUser ? startEditing : null));
    } else if (message.role === "assistant") {
      const view = new ReplyView(message);
      view.update();
      const next = messages.slice(index + 1).findIndex((later) => later.role !== "tool");
      view.showResults(messages.slice(index + 1, next < 0 ? undefined : index + 1 + next));
      view.finish(index === messages.length - 1 ? endActions(message) : {});
      ui.transcript.append(view.element);
      lastView = view;
    }
  });
  offerAnswers();
  ui.welcome.hidden = messages.length > 0;
  ui.title.textContent = conversation.title;
  document.title = conversation.title === "" ? "cachalot" : `${conversation.title} · cachalot`;
  ui.speed.textContent = "";
  showState();
  follow();
}

function endActions(reply) {
  return { onRegenerate: reply.failure ? null : regenerate, onRetry: regenerate };
}

// Shows the fields for results if the model waits for some.
function offerAnswers() {
  if (active !== null || lastView === null || openCalls(conversation.messages).length === 0) return null;
  return lastView.askForResults(answerCalls);
}

function showState() {
  const isBusy = active !== null;
  const isWaiting = !isBusy && openCalls(conversation.messages).length > 0 && !isEditing;
  ui.send.hidden = isBusy;
  ui.stop.hidden = !isBusy;
  ui.send.disabled = !isReady || isWaiting;
  ui["wait-note"].hidden = !isWaiting;
  ui.editing.hidden = !isEditing;
  const thinking = { default: "", on: "thinking", off: "no thinking" }[settings.thinking];
  const numTools = settings.tools.trim() === "" ? 0 : JSON.parse(settings.tools).length;
  const tools = numTools === 0 ? "" : `${numTools} tool${numTools === 1 ? "" : "s"}`;
  ui.mode.textContent = [settings.model || ui["set-model"].options[0]?.text || "", thinking, tools].filter(Boolean).join(" · ");
}

function follow() {
  isFollowing = true;
  ui.scroller.scrollTop = ui.scroller.scrollHeight;
  ui["to-end"].hidden = true;
}

const distanceToEnd = () => ui.scroller.scrollHeight - ui.scroller.scrollTop - ui.scroller.clientHeight;

ui.scroller.addEventListener("scroll", () => {
  isFollowing = distanceToEnd() < FOLLOW_DISTANCE;
  if (isFollowing) ui["to-end"].hidden = true;
});
ui["to-end"].addEventListener("click", () => {
  follow();
  ui.prompt.focus();
});

// ------------------------------------------------------------------------------------------------------------ answers

async function requestReply() {
  const reply = newReply(performance.now());
  const { messages } = conversation;
  const owner = conversation;
  const body = requestBody(messages, settings);
  messages.push(reply);
  const view = new ReplyView(reply);
  lastView = view;
  ui.transcript.append(view.element);
  const draw = () => {
    view.update(performance.now());
    ui.speed.textContent = formatSpeed(reply.timing, performance.now());
    if (isFollowing) follow();
    else ui["to-end"].hidden = distanceToEnd() < FOLLOW_DISTANCE;
  };
  const painter = new Painter(draw);
  const controller = new AbortController();
  active = { controller, reply, view, painter };
  keep();
  showState();
  painter.flush();
  follow();
  say("Answering");
  // The time of thinking goes on between tokens.
  const clock = setInterval(() => painter.request(), 500);
  try {
    await stream(body, controller.signal, reply, painter);
  } catch (error) {
    if (controller.signal.aborted) reply.wasStopped = true;
    else if (!isLeaving) reply.failure = describe(error);
  } finally {
    clearInterval(clock);
    if (active?.controller === controller) active = null;
  }
  // While it was streamed the person may have gone to another conversation.
  if (conversation !== owner) {
    if (!deleted.has(owner.id)) store.save(owner);
    showList();
    return;
  }
  painter.flush();
  view.update();
  view.finish(endActions(reply));
  const field = offerAnswers();
  keep();
  showState();
  // From now on the numbers stand under the answer.
  ui.speed.textContent = "";
  if (isFollowing) follow();
  announce(reply);
  if (field && document.activeElement === ui.prompt) field.focus();
  if (reply.failure?.status === 401) askForKey(reply.failure.message, regenerate);
  if (reply.failure?.code === "unreachable" || reply.failure?.status === 503) watchHealth();
}

async function stream(body, signal, reply, painter) {
  const events = await api.chat(body, signal);
  for await (const data of readEvents(events)) {
    if (signal.aborted) return;
    if (!addEvent(reply, data, performance.now())) return;
    painter.request();
  }
  throw new StreamError("The connection ended before the answer did.", "cut_off");
}

function describe(error) {
  if (error instanceof ApiFailure) {
    const wait = error.retryAfter === null ? "" : ` (try again in ${error.retryAfter} s)`;
    return { message: error.message + wait, status: error.status, code: error.code };
  }
  if (error instanceof StreamError) return { message: error.message, status: 0, code: error.code ?? "" };
  // What fetch's reader throws when a connection breaks.
  if (error instanceof TypeError) return { message: "The connection to the server broke.", status: 0, code: "cut_off" };
  throw error;
}

// Says the finished answer, not each token of it.
function announce(reply) {
  if (reply.failure) say(`The request failed. ${reply.failure.message}`);
  else if (reply.wasStopped) say("Stopped.");
  else if (reply.tool_calls.length > 0) say(`The model calls ${reply.tool_calls.map((call) => call.name).join(", ")}.`);
  else say(reply.content === "" ? "The answer is empty." : reply.content.slice(0, MAX_ANNOUNCED));
}

function say(text) {
  ui.announcer.textContent = text;
}

function stop() {
  active?.controller.abort();
}

// Ends the answer because its conversation is left: from here on the page is free for the next.
function leave() {
  stop();
  active = null;
}

function send() {
  const text = ui.prompt.value;
  if (text.trim() === "" || active !== null || ui.send.disabled) return;
  if (isEditing) {
    conversation.messages.length = conversation.messages.findLastIndex((message) => message.role === "user");
    isEditing = false;
  }
  conversation.messages.push({ role: "user", content: text });
  conversation.title ||= titleOf(conversation.messages);
  ui.prompt.value = "";
  fitPrompt();
  showConversation();
  requestReply();
}

// Asks again for the last answer.
function regenerate() {
  if (active !== null || conversation.messages.at(-1)?.role !== "assistant") return;
  conversation.messages.pop();
  showConversation();
  requestReply();
}

function answerCalls(results) {
  if (active !== null) return;
  openCalls(conversation.messages).forEach((call, index) => {
    conversation.messages.push({ role: "tool", tool_call_id: call.id, content: results[index] });
  });
  showConversation();
  ui.prompt.focus();
  requestReply();
}

// Whoever edits a message has no use for an answer to it that is still coming.
function startEditing() {
  stop();
  isEditing = true;
  ui.prompt.value = conversation.messages.findLast((message) => message.role === "user").content;
  fitPrompt();
  showState();
  ui.prompt.focus();
}

function cancelEditing() {
  isEditing = false;
  ui.prompt.value = "";
  fitPrompt();
  showState();
  ui.prompt.focus();
}

// -------------------------------------------------------------------------------------------------------- conversations

function keep() {
  if (conversation.messages.length === 0) return;
  conversation.updated = Date.now();
  if (!store.save(conversation)) banner("This browser has no room to keep this conversation; export it if you need it.");
  showList();
}

function showList() {
  const all = store.conversations();
  ui["no-conversations"].hidden = all.length > 0;
  ui.conversations.replaceChildren(
    ...all.map((saved) => {
      const isCurrent = saved.id === conversation.id;
      const title = saved.title || "Untitled";
      return element(
        "li",
        { class: isCurrent ? "current" : "" },
        element("button", { class: "open", type: "button", "aria-current": isCurrent ? "true" : null, title, text: title, on: { click: () => openConversation(saved) } }),
        iconButton(`Export “${title}”`, ICONS.download, () => download([saved.id === conversation.id ? conversation : saved], saved.title)),
        iconButton(`Delete “${title}”`, ICONS.remove, () => deleteConversation(saved)),
      );
    }),
  );
}

function openConversation(next) {
  closeMenu();
  ui.prompt.focus();
  // What is kept of the current one may lag behind what is shown.
  if (next.id === conversation.id) return;
  leave();
  conversation = next;
  isEditing = false;
  showConversation();
  showList();
}

async function deleteConversation(saved) {
  if (!(await confirm(`Delete “${saved.title || "Untitled"}”?`))) return;
  if (saved.id === conversation.id) {
    leave();
    conversation = newConversation(Date.now());
    showConversation();
  }
  forget(saved);
  showList();
  ui["new-conversation"].focus();
}

function forget(saved) {
  deleted.add(saved.id);
  store.remove(saved.id);
}

function download(conversations, title) {
  const text = JSON.stringify({ format: "cachalot conversations", version: 1, conversations }, null, 2);
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "conversations";
  element("a", { href: address, download: `cachalot-${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// What came of an answer is kept even if the page goes away in the middle of it.
addEventListener("pagehide", () => active !== null && store.save(conversation));
// Browsers break the page's connections before they hide it; that is no failure of the server.
addEventListener("beforeunload", () => {
  isLeaving = true;
  setTimeout(() => (isLeaving = false), LEAVING_MS);
});

// ------------------------------------------------------------------------------------------------------------- settings

const NUMBER_FIELDS = [
  ["temperature", "set-temperature", "temperature-problem", (value) => value >= 0 && value <= 2],
  ["maxTokens", "set-max-tokens", "max-tokens-problem", (value) => Number.isInteger(value) && value >= 1 && value <= 10_000_000],
];

function openSettings() {
  ui["set-model"].value = settings.model;
  ui["set-thinking"].value = settings.thinking;
  for (const [name, field] of NUMBER_FIELDS) ui[field].value = settings[name] ?? "";
  ui["set-system"].value = settings.systemPrompt;
  ui["set-tools"].value = settings.tools;
  ui["set-theme"].value = settings.theme;
  checkSettings();
  ui.settings.showModal();
}

function showProblem(field, place, text) {
  place.hidden = text === null;
  if (text !== null) place.textContent = text;
  field.setAttribute("aria-invalid", String(text !== null));
}

// The settings as the form has them, or null with the problems shown.
function checkSettings() {
  const checked = {
    ...DEFAULT_SETTINGS,
    model: ui["set-model"].value,
    thinking: ui["set-thinking"].value,
    systemPrompt: ui["set-system"].value,
    tools: ui["set-tools"].value,
    theme: ui["set-theme"].value,
  };
  let first = null;
  for (const [name, field, place, isValid] of NUMBER_FIELDS) {
    const text = ui[field].value.trim().replace(",", ".");
    const value = text === "" ? null : Number(text);
    const isFine = value === null || isValid(value);
    showProblem(ui[field], ui[place], isFine ? null : ui[place].textContent);
    checked[name] = value;
    if (!isFine) first ??= ui[field];
  }
  const problem = toolsProblem(checked.tools);
  showProblem(ui["set-tools"], ui["tools-problem"], problem);
  if (problem !== null) first ??= ui["set-tools"];
  if (first === null) return checked;
  first.focus();
  return null;
}

ui["settings-form"].addEventListener("submit", (event) => {
  event.preventDefault();
  const checked = checkSettings();
  if (checked === null) return;
  settings = checked;
  store.saveSettings(settings);
  applyTheme();
  showState();
  ui.settings.close();
});

function applyTheme() {
  if (settings.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
}

// The names that the server knows; a chosen name that it does not know stays choosable, so that nothing changes silently.
function showModels(models) {
  const names = models.map((model) => model.id);
  if (settings.model !== "" && !names.includes(settings.model)) names.push(settings.model);
  const first = names[0] === undefined ? "server’s own" : names[0];
  ui["set-model"].replaceChildren(
    element("option", { value: "", text: first }),
    ...names.slice(1).map((name) => element("option", { value: name, text: name })),
  );
  showState();
}

// -------------------------------------------------------------------------------------------------------------- dialogs

let afterKey = null;

function askForKey(problem, then) {
  afterKey = then;
  ui["key-problem"].textContent = problem;
  ui.key.value = keys.key;
  ui["remember-key"].checked = keys.isRemembered;
  if (!ui["key-dialog"].open) ui["key-dialog"].showModal();
  ui.key.focus();
}

ui["key-form"].addEventListener("submit", (event) => {
  event.preventDefault();
  keys.set(ui.key.value.trim(), ui["remember-key"].checked ? "browser" : "tab");
  ui["key-dialog"].close();
  const then = afterKey;
  afterKey = null;
  then?.();
});

// Whether the person agrees.
function confirm(question) {
  ui["confirm-text"].textContent = question;
  ui.confirm.returnValue = "";
  ui.confirm.showModal();
  ui["confirm-no"].focus();
  return new Promise((resolve) => {
    ui.confirm.addEventListener("close", () => resolve(ui.confirm.returnValue === "yes"), { once: true });
  });
}

ui["confirm-form"].addEventListener("submit", (event) => {
  event.preventDefault();
  ui.confirm.close("yes");
});

// ---------------------------------------------------------------------------------------------------------------- server

function banner(text) {
  ui.banner.hidden = text === "";
  ui.banner.textContent = text;
}

let isWatching = false;

// Waits until the server takes requests, then asks for the models.
async function watchHealth() {
  if (isWatching) return;
  isWatching = true;
  for (;;) {
    try {
      await api.health();
      break;
    } catch (error) {
      isReady = false;
      banner(waitingFor(error));
      showState();
    }
    await new Promise((resolve) => setTimeout(resolve, HEALTH_INTERVAL_MS));
  }
  isWatching = false;
  isReady = true;
  banner("");
  showState();
  loadModels();
}

function waitingFor(error) {
  if (error.code === "loading") return "The model is still being loaded. This page waits for it.";
  if (error.code === "unreachable") return "The server cannot be reached. This page keeps trying.";
  return `${error.message}. This page keeps trying.`;
}

async function loadModels() {
  try {
    showModels(await api.models());
  } catch (error) {
    if (error.status === 401) askForKey(keys.key === "" ? "This server asks for an API key." : error.message, loadModels);
    else banner(`The models could not be listed: ${error.message}`);
  }
}

async function showLoad() {
  if (document.visibilityState !== "visible") return;
  let load = null;
  try {
    load = readLoad(await api.metrics());
  } catch {
    // The note below says it; an answer that fails says more.
  }
  ui.load.hidden = load === null;
  ui["load-meter"].hidden = load === null;
  ui["load-note"].hidden = load !== null;
  ui["load-note"].textContent = "Not available from this server.";
  if (load === null) return;
  ui["load-running"].textContent = load.running;
  ui["load-waiting"].textContent = load.waiting;
  const percent = load.cacheUse * 100;
  ui["load-cache"].textContent = `${percent > 0 && percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
  ui["load-cache"].title = `${load.blocksInUse} of ${load.blocksTotal} blocks`;
  ui["load-bar"].style.width = `${percent}%`;
}

// ------------------------------------------------------------------------------------------------------------------ keys

function fitPrompt() {
  ui.prompt.style.height = "auto";
  ui.prompt.style.height = `${ui.prompt.scrollHeight}px`;
}

ui.prompt.addEventListener("input", fitPrompt);
ui.prompt.addEventListener("keydown", (event) => {
  // An input method uses Enter to choose a word; Safari tells only by the code 229 when that ends the composition.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send();
});
ui.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
  ui.prompt.focus();
});
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (isMenuOpen()) closeMenu();
  else if (active !== null) stop();
  else if (isEditing) cancelEditing();
});

const isMenuOpen = () => document.body.classList.contains("menu-open");

// On narrow screens the menu lies over the rest, which is out of reach meanwhile.
function showMenu(isOpen) {
  document.body.classList.toggle("menu-open", isOpen);
  ui.scrim.hidden = !isOpen;
  ui.main.inert = isOpen;
  ui.top.inert = isOpen;
  ui.menu.setAttribute("aria-expanded", String(isOpen));
}

function closeMenu() {
  if (!isMenuOpen()) return;
  showMenu(false);
  ui.menu.focus();
}

ui.menu.addEventListener("click", () => {
  showMenu(true);
  ui["new-conversation"].focus();
});
// A window that grows shows the menu beside the rest.
matchMedia("(max-width: 56rem)").addEventListener("change", () => showMenu(false));
ui.scrim.addEventListener("click", closeMenu);

ui.stop.addEventListener("click", () => {
  stop();
  ui.prompt.focus();
});
ui["cancel-edit"].addEventListener("click", cancelEditing);
ui["new-conversation"].addEventListener("click", () => openConversation(newConversation(Date.now())));
ui["open-settings"].addEventListener("click", openSettings);
ui["cancel-settings"].addEventListener("click", () => ui.settings.close());
ui["cancel-key"].addEventListener("click", () => ui["key-dialog"].close());
ui["confirm-no"].addEventListener("click", () => ui.confirm.close());
ui["change-key"].addEventListener("click", () => {
  ui.settings.close();
  askForKey("The key goes with each request to this server.", loadModels);
});
ui["export-all"].addEventListener("click", () => download(store.conversations(), ""));
ui["delete-all"].addEventListener("click", async () => {
  const all = store.conversations();
  if (!(await confirm(`Delete all conversations of this browser (${all.length})?`))) return;
  all.forEach(forget);
  ui.settings.close();
  openConversation(newConversation(Date.now()));
});

showConversation();
showList();
watchHealth();
showLoad();
setInterval(showLoad, LOAD_INTERVAL_MS);
document.addEventListener("visibilitychange", showLoad);
ui.prompt.focus();
