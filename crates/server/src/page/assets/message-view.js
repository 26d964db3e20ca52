// How messages look. A view shows what it is given; what buttons do is up to the page.

import { copyButton, element, iconButton, ICONS } from "./dom.js";
import { indentJson, isJsonObject, speed, thinkingSeconds } from "./reply.js";
import { MarkdownView, PlainView } from "./text-view.js";

const ENDINGS = {
  length: "The answer was cut off at the limit of tokens.",
  content_filter: "The answer was ended by a filter.",
  insufficient_system_resource: "The server ran out of resources and ended the answer.",
};

export function formatSeconds(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function formatSpeed(timing, now) {
  const { firstTokenSeconds, tokensPerSecond } = speed(timing, now);
  const parts = [];
  if (timing.numTokens > 0) parts.push(`${timing.numTokens} token${timing.numTokens === 1 ? "" : "s"}`);
  if (tokensPerSecond !== null) parts.push(`${tokensPerSecond.toFixed(tokensPerSecond < 10 ? 1 : 0)} tokens/s`);
  if (firstTokenSeconds !== null) parts.push(`first after ${firstTokenSeconds.toFixed(2)} s`);
  return parts.join(" · ");
}

// The message of a person: text as it was typed.
export function userView(message, onEdit) {
  const actions = element(
    "div",
    { class: "actions" },
    copyButton("Copy message", () => message.content),
    onEdit === null ? null : iconButton("Edit message", ICONS.edit, onEdit),
  );
  return element(
    "article",
    { class: "message user", "aria-label": "You" },
    element("h2", { class: "visually-hidden", text: "You" }),
    element("div", { class: "bubble", text: message.content }),
    actions,
  );
}

// An answer, which may be growing.
export class ReplyView {
  element;
  #reply;
  #thinking = null;
  #content = null;
  #calls = [];
  #callsBox = element("div", { class: "calls" });
  #body = element("div", { class: "body" });
  #notes = element("div", { class: "notes" });
  #speed = element("span", { class: "speed" });
  #actions = element("div", { class: "actions" });
  #pulse = element("p", { class: "pulse" }, element("span", { class: "visually-hidden", text: "Waiting for the answer" }));

  constructor(reply) {
    this.#reply = reply;
    this.#body.append(this.#pulse);
    this.element = element(
      "article",
      { class: "message assistant", "aria-label": "Answer" },
      element("h2", { class: "visually-hidden", text: "Answer" }),
      this.#body,
      this.#callsBox,
      this.#notes,
      element("footer", { class: "foot" }, this.#actions, this.#speed),
    );
  }

  // Shows what has come so far.
  update(now) {
    const reply = this.#reply;
    if (reply.reasoning_content) this.#updateThinking(reply, now);
    if (reply.content !== "") {
      if (this.#content === null) {
        const box = element("div", { class: "markdown" });
        this.#body.append(box);
        this.#content = new MarkdownView(box);
      }
      this.#content.update(reply.content);
    }
    reply.tool_calls.forEach((call, index) => {
      this.#calls[index] ??= this.#addCall(call);
      this.#calls[index].update();
    });
    const isLive = now !== undefined;
    const isEmpty = !reply.reasoning_content && reply.content === "" && reply.tool_calls.length === 0;
    this.#pulse.hidden = !isLive || !isEmpty;
    this.element.setAttribute("aria-busy", String(isLive));
    this.#speed.textContent = isLive ? "" : formatSpeed(reply.timing);
  }

  #updateThinking(reply, now) {
    if (this.#thinking === null) {
      const summary = element("summary", {}, element("span", { class: "label" }));
      const text = element("div", { class: "thoughts" });
      const details = element("details", { class: "thinking" }, summary, text);
      this.#thinking = { details, label: summary.firstChild, view: new PlainView(text), isTouched: false };
      summary.addEventListener("click", () => (this.#thinking.isTouched = true));
      this.#body.prepend(details);
    }
    const { details, label, view, isTouched } = this.#thinking;
    view.update(reply.reasoning_content);
    const isThinking = now !== undefined && reply.timing.thought === null;
    // It folds by itself once, and never against the person's own choice.
    if (!isTouched) details.open = isThinking;
    details.classList.toggle("live", isThinking);
    const seconds = thinkingSeconds(reply.timing, now);
    const time = seconds === null || (seconds < 0.1 && !isThinking) ? " for a moment" : ` for ${formatSeconds(seconds)}`;
    const said = isThinking ? `Thinking${time}` : `Thought${time}`;
    if (label.textContent !== said) label.textContent = said;
  }

  #addCall(call) {
    const view = new CallView(call);
    this.#callsBox.append(view.element);
    return view;
  }

  // What there is to say about the end of the answer, and to do about it.
  finish({ onRegenerate, onRetry }) {
    const reply = this.#reply;
    const notes = [];
    const note = (kind, ...children) => notes.push(element("div", { class: `note ${kind}` }, ...children));
    if (reply.wasStopped) note("quiet", element("p", { text: "Stopped." }));
    const hasNoEnd = reply.finish_reason === null && !reply.wasStopped && !reply.failure;
    if (hasNoEnd) note("quiet", element("p", { text: "The page was left before the answer ended." }));
    if (ENDINGS[reply.finish_reason]) note("quiet", element("p", { text: ENDINGS[reply.finish_reason] }));
    if (reply.defect) {
      note(
        "problem",
        element("p", { text: `The model began a tool call that could not be read: ${reply.defect.message}` }),
        element("details", {}, element("summary", { text: "What it wrote" }), element("pre", { tabindex: "0", text: reply.defect.text })),
      );
    }
    if (reply.failure) {
      const again = onRetry && element("button", { class: "button", type: "button", text: "Try again", on: { click: onRetry } });
      note("problem", element("p", { text: reply.failure.message }), again);
    }
    const isCut = reply.tool_calls.length > 0 && reply.finish_reason !== "tool_calls";
    if (isCut) note("quiet", element("p", { text: "The tool call above is not complete, so it cannot be answered." }));
    if (reply.finish_reason === "tool_calls" && reply.tool_calls.some((call) => !isJsonObject(call.arguments))) {
      note("problem", element("p", { text: "The arguments above are no JSON object, so the call cannot be answered." }));
    }
    if (notes.length === 0 && !reply.content && !reply.reasoning_content && reply.tool_calls.length === 0) {
      note("quiet", element("p", { text: "The answer is empty." }));
    }
    this.#notes.replaceChildren(...notes);
    this.#actions.replaceChildren(
      ...[
        reply.content === "" ? null : copyButton("Copy answer", () => reply.content),
        onRegenerate && iconButton("Regenerate", ICONS.again, onRegenerate),
      ].filter(Boolean),
    );
  }

  // Shows results that have been given, by the ids of their calls.
  showResults(results) {
    this.#calls.forEach((view, index) => results[index] && view.showResult(results[index].content));
  }

  // Asks for the results of all calls; `onAnswer` gets their texts.
  askForResults(onAnswer) {
    const fields = this.#calls.map((view) => view.askForResult());
    const submit = element("button", { class: "button primary", type: "submit", text: fields.length === 1 ? "Send result" : "Send results" });
    const form = element("form", {
      class: "calls-form",
      "aria-label": "Results of tool calls",
      on: {
        submit: (event) => {
          event.preventDefault();
          onAnswer(fields.map((field) => field.value));
        },
      },
    });
    this.#callsBox.replaceWith(form);
    form.append(this.#callsBox, element("div", { class: "buttons end" }, submit));
    return fields[0];
  }
}

class CallView {
  static #count = 0;
  element;
  #call;
  #name = element("code", { class: "call-name" });
  #arguments = element("code");
  #shown = null;

  constructor(call) {
    this.#call = call;
    this.element = element(
      "section",
      { class: "call", "aria-label": "Tool call" },
      element("p", { class: "call-head" }, "Tool call ", this.#name),
      element("pre", { tabindex: "0", role: "region", "aria-label": "Arguments" }, this.#arguments),
    );
  }

  update() {
    const { name, arguments: text } = this.#call;
    if (this.#name.textContent !== name) this.#name.textContent = name;
    if (this.#shown === text) return;
    this.#shown = text;
    this.#arguments.textContent = pretty(text);
  }

  showResult(text) {
    this.element.append(element("p", { class: "call-head", text: "Result" }), element("pre", { tabindex: "0", role: "region", "aria-label": "Result", text }));
  }

  askForResult() {
    const id = `result-${++CallView.#count}`;
    const field = element("textarea", { id, class: "code", rows: "2", spellcheck: "false" });
    this.element.append(element("div", { class: "entry" }, element("label", { for: id, text: `Result of ${this.#call.name}` }), field));
    return field;
  }
}

// Arguments as they stand while they are incomplete, indented once they are JSON.
function pretty(text) {
  if (text.trim() === "") return "(none)";
  return text.trimEnd().endsWith("}") && isJsonObject(text) ? indentJson(text) : text;
}
