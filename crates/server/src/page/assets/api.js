// Talking to the server that the page came from.

// Why a request failed, in words for the person at the page.
export class ApiFailure extends Error {
  constructor(message, { status = 0, code = "", retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

const MAX_ERROR_TEXT = 500;

// `key` is a function, because the key can change while the page is open.
export class Api {
  #key;

  constructor(key) {
    this.#key = key;
  }

  async #fetch(path, options = {}) {
    const headers = new Headers(options.headers);
    const key = this.#key();
    if (key !== "") headers.set("Authorization", `Bearer ${key}`);
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiFailure("The server cannot be reached. Is it still running?", { code: "unreachable" });
    }
    if (!response.ok) throw await failure(response);
    return response;
  }

  // Throws an `ApiFailure` with the reason while the server takes no requests.
  async health() {
    await this.#fetch("/health");
  }

  async models() {
    const { data } = await (await this.#fetch("/v1/models")).json();
    return (Array.isArray(data) ? data : []).filter((model) => typeof model?.id === "string");
  }

  async metrics() {
    return (await this.#fetch("/metrics")).text();
  }

  // The body of a stream of events.
  async chat(body, signal) {
    const response = await this.#fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify(body),
      signal,
    });
    const type = response.headers.get("Content-Type") ?? "";
    if (!type.startsWith("text/event-stream")) {
      throw new ApiFailure(`The server answered with ${type || "an unknown type"} instead of a stream of events.`);
    }
    return response.body;
  }
}

async function failure(response) {
  const details = { status: response.status, retryAfter: Number(response.headers.get("Retry-After")) || null };
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text);
    if (typeof error.message === "string") return new ApiFailure(error.message, { ...details, code: error.code ?? "" });
  } catch {
    // Something between the page and the server has answered.
  }
  const shown = text.trim().slice(0, MAX_ERROR_TEXT);
  return new ApiFailure(`The server answered with status ${response.status}${shown === "" ? "." : `: ${shown}`}`, details);
}
