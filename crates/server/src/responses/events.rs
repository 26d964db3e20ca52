//! The events of a streamed answer, in the order that OpenAI's clients rely on.

use serde::Serialize;
use serde_json::json;

use super::output::{Item, Part, Reply, Step};
use crate::error::ApiError;
use crate::generation::Output;
use crate::sse::{WriteChunks, write_json};
use crate::wire::usage::Usage;

/// Writes the events of one answer.
pub(super) struct Events {
    reply: Reply,
    has_begun: bool,
    num_events: usize,
}

impl Events {
    pub(super) fn new(reply: Reply) -> Self {
        Events { reply, has_begun: false, num_events: 0 }
    }

    fn begin(&mut self, frame: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let mut writer = Writer { frame, num_events: &mut self.num_events };
            for kind in ["response.created", "response.in_progress"] {
                writer.event(kind, json!({"response": self.reply.response()}));
            }
        }
    }

    fn end_with(&mut self, frame: &mut Vec<u8>) {
        let kind = match self.reply.status() {
            "failed" => "response.failed",
            "incomplete" => "response.incomplete",
            _ => "response.completed",
        };
        let mut writer = Writer { frame, num_events: &mut self.num_events };
        writer.event(kind, json!({"response": self.reply.response()}));
    }
}

impl WriteChunks for Events {
    fn write(&mut self, _: usize, output: Output, usage: Option<&Usage>, frame: &mut Vec<u8>) {
        self.begin(frame);
        let mut writer = Writer { frame, num_events: &mut self.num_events };
        self.reply.push(output, &mut |step| writer.step(step));
        if let Some(usage) = usage {
            self.reply.finish(usage.clone());
            self.end_with(frame);
        }
    }

    /// The last event is the end.
    fn end(&mut self, _: &mut Vec<u8>) {}

    fn fail(&mut self, error: &ApiError, frame: &mut Vec<u8>) {
        self.begin(frame);
        self.reply.fail(error);
        self.end_with(frame);
    }

    /// A client that waits may as well learn that its request has been taken.
    fn keep_alive(&mut self, frame: &mut Vec<u8>) {
        if self.has_begun {
            frame.extend_from_slice(b": keep-alive\n\n");
        } else {
            self.begin(frame);
        }
    }
}

struct Writer<'a> {
    frame: &'a mut Vec<u8>,
    num_events: &'a mut usize,
}

impl Writer<'_> {
    fn event(&mut self, kind: &'static str, fields: impl Serialize) {
        #[derive(Serialize)]
        struct Event<T> {
            r#type: &'static str,
            sequence_number: usize,
            #[serde(flatten)]
            fields: T,
        }
        let sequence_number = *self.num_events;
        *self.num_events += 1;
        self.frame.extend_from_slice(b"event: ");
        self.frame.extend_from_slice(kind.as_bytes());
        self.frame.extend_from_slice(b"\ndata: ");
        write_json(self.frame, &Event { r#type: kind, sequence_number, fields });
        self.frame.extend_from_slice(b"\n\n");
    }

    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Opened(output_index, item) => {
                self.event("response.output_item.added", json!({"output_index": output_index, "item": item}));
                let part = match item {
                    Item::Reasoning { .. } => json!({"type": "reasoning_text", "text": ""}),
                    Item::Message { .. } => {
                        json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
                    }
                    Item::FunctionCall { .. } => return,
                };
                self.part("response.content_part.added", item, output_index, json!({"part": part}));
            }
            Step::Grown(output_index, item, delta, logprobs) => match item {
                Item::Reasoning { .. } => {
                    self.part("response.reasoning_text.delta", item, output_index, json!({"delta": delta}));
                }
                Item::Message { .. } => {
                    let fields = json!({"delta": delta, "logprobs": logprobs});
                    self.part("response.output_text.delta", item, output_index, fields);
                }
                Item::FunctionCall { id, .. } => {
                    let fields = json!({"item_id": id, "output_index": output_index, "delta": delta});
                    self.event("response.function_call_arguments.delta", fields);
                }
            },
            Step::Closed(output_index, item) => {
                match item {
                    Item::Reasoning { content, .. } | Item::Message { content, .. } => {
                        for part in content {
                            let (kind, fields) = match part {
                                Part::ReasoningText { text } => ("response.reasoning_text.done", json!({"text": text})),
                                Part::OutputText { text, logprobs, .. } => {
                                    ("response.output_text.done", json!({"text": text, "logprobs": logprobs}))
                                }
                            };
                            self.part(kind, item, output_index, fields);
                            self.part("response.content_part.done", item, output_index, json!({"part": part}));
                        }
                    }
                    Item::FunctionCall { id, name, arguments, .. } => {
                        let fields =
                            json!({"item_id": id, "output_index": output_index, "name": name, "arguments": arguments});
                        self.event("response.function_call_arguments.done", fields);
                    }
                }
                self.event("response.output_item.done", json!({"output_index": output_index, "item": item}));
            }
        }
    }

    /// An event about the only part of an item.
    fn part(&mut self, kind: &'static str, item: &Item, output_index: usize, fields: impl Serialize) {
        #[derive(Serialize)]
        struct OfPart<'a, T> {
            item_id: &'a str,
            output_index: usize,
            content_index: usize,
            #[serde(flatten)]
            fields: T,
        }
        let (Item::Reasoning { id, .. } | Item::Message { id, .. } | Item::FunctionCall { id, .. }) = item;
        self.event(kind, OfPart { item_id: id, output_index, content_index: 0, fields });
    }
}
