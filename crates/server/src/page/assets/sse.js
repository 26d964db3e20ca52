// Server-sent events from a byte stream.
//
// EventSource cannot send a body, so the page reads fetch's stream. Bytes and lines may be cut anywhere.

// Splits text into events. `push` takes the next piece and returns the data of the events that it completes.
export class EventParser {
  #line = "";
  #data = [];
  #afterReturn = false;

  push(piece) {
    const events = [];
    let start = 0;
    for (let at = 0; at < piece.length; at++) {
      const character = piece[at];
      if (character !== "\n" && character !== "\r") {
        this.#afterReturn = false;
        continue;
      }
      // The second half of a CRLF, even if a new piece begins with it, ends no line of its own.
      if (!(character === "\n" && this.#afterReturn)) {
        this.#endLine(this.#line + piece.slice(start, at), events);
        this.#line = "";
      }
      this.#afterReturn = character === "\r";
      start = at + 1;
    }
    this.#line += piece.slice(start);
    return events;
  }

  #endLine(line, events) {
    if (line === "") {
      if (this.#data.length > 0) events.push(this.#data.join("\n"));
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    // A line that begins with a colon is a comment: its field is empty. Fields other than `data` say nothing here.
    if (field !== "data") return;
    const value = colon < 0 ? "" : line.slice(colon + 1);
    this.#data.push(value.startsWith(" ") ? value.slice(1) : value);
  }
}

// The data of each event of a body. An event that the end of the body cuts off is not one.
export async function* readEvents(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Whoever stops reading ends the request; a reader that has failed has nothing left to cancel.
    reader.cancel().catch(() => {});
  }
}
