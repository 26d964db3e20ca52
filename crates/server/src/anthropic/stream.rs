//! A message as server-sent events.
//!
//! Each block of content is opened, filled and closed before the next one, and each event has its name twice: clients read
//! `event:`, the data repeats it.

use cachalot_prompt::Delta;
use serde_json::Map;

use super::messages::{Call, MessageHead};
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::generation::{End, Output};
use crate::sse::{WriteChunks, write_json};
use crate::wire::anthropic::{BlockDelta, Ending, Event, ReplyBlock};
use crate::wire::chat::MalformedToolCall;
use crate::wire::usage::Usage;

/// Writes the events of one message.
pub(super) struct Events {
    head: MessageHead,
    /// Of the prompt, all of it as if it had not been found in the cache: that is known at the end.
    usage: Usage,
    has_begun: bool,
    open: Option<OpenBlock>,
    /// Index of the open block, or of the next one.
    index: usize,
    incomplete: Option<MalformedToolCall>,
}

/// The block that is being filled.
enum OpenBlock {
    Thinking,
    Text,
    ToolUse(Call),
}

impl Events {
    /// `usage` is that before the first token.
    pub(super) fn new(head: MessageHead, usage: Usage) -> Self {
        Events { head, usage, has_begun: false, open: None, index: 0, incomplete: None }
    }

    fn begin(&mut self, frame: &mut Vec<u8>) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        write_event(frame, &Event::MessageStart { message: self.head.reply(Vec::new(), &self.usage) });
        if self.head.begins_with_thinking {
            self.open(OpenBlock::Thinking, frame);
        }
    }

    fn open(&mut self, block: OpenBlock, frame: &mut Vec<u8>) {
        self.close(frame);
        let content_block = match &block {
            OpenBlock::Thinking => ReplyBlock::Thinking { thinking: "", signature: "" },
            OpenBlock::Text => ReplyBlock::Text { text: "" },
            OpenBlock::ToolUse(call) => ReplyBlock::ToolUse { id: &call.id, name: &call.name, input: Map::new() },
        };
        write_event(frame, &Event::ContentBlockStart { index: self.index, content_block });
        self.open = Some(block);
    }

    fn close(&mut self, frame: &mut Vec<u8>) {
        let Some(block) = self.open.take() else { return };
        match block {
            OpenBlock::Thinking => self.fill(BlockDelta::Signature { signature: &self.head.id }, frame),
            OpenBlock::Text => {}
            OpenBlock::ToolUse(call) => {
                if let Err(incomplete) = call.input() {
                    self.incomplete.get_or_insert(incomplete);
                }
            }
        }
        write_event(frame, &Event::ContentBlockStop { index: self.index });
        self.index += 1;
    }

    fn fill(&self, delta: BlockDelta, frame: &mut Vec<u8>) {
        write_event(frame, &Event::ContentBlockDelta { index: self.index, delta });
    }

    fn delta(&mut self, delta: Delta, frame: &mut Vec<u8>) {
        match delta {
            Delta::Reasoning(thinking) => {
                if !matches!(self.open, Some(OpenBlock::Thinking)) {
                    self.open(OpenBlock::Thinking, frame);
                }
                self.fill(BlockDelta::Thinking { thinking: &thinking }, frame);
            }
            Delta::Content(text) => {
                if !matches!(self.open, Some(OpenBlock::Text)) {
                    self.open(OpenBlock::Text, frame);
                }
                self.fill(BlockDelta::Text { text: &text }, frame);
            }
            Delta::CallBegin { name } => self.open(OpenBlock::ToolUse(Call::begin(name)), frame),
            Delta::CallArguments(partial_json) => {
                self.fill(BlockDelta::InputJson { partial_json: &partial_json }, frame);
                match &mut self.open {
                    Some(OpenBlock::ToolUse(call)) => call.arguments.push_str(&partial_json),
                    _ => unreachable!("arguments come after the beginning of their call"),
                }
            }
        }
    }
}

impl WriteChunks for Events {
    fn write(&mut self, _: usize, output: Output, usage: Option<&Usage>, frame: &mut Vec<u8>) {
        self.begin(frame);
        match output {
            Output::Prompt(_) => {}
            Output::Token(token) => token.deltas.into_iter().for_each(|delta| self.delta(delta, frame)),
            Output::End(End { tail, reason, defect }) => {
                tail.into_iter().for_each(|delta| self.delta(delta, frame));
                self.close(frame);
                let error = defect.map(MalformedToolCall::from).or(self.incomplete.take());
                let usage = usage.unwrap_or(&self.usage).into();
                write_event(frame, &Event::MessageDelta { delta: Ending::new(&reason), usage, error });
            }
        }
    }

    fn end(&mut self, frame: &mut Vec<u8>) {
        write_event(frame, &Event::MessageStop);
    }

    fn fail(&mut self, error: &ApiError, frame: &mut Vec<u8>) {
        frame.extend_from_slice(b"event: error\ndata: ");
        Dialect::Anthropic.write_error(error, frame);
        frame.extend_from_slice(b"\n\n");
    }

    /// A client that waits learns with the first of them that its request has been taken.
    fn keep_alive(&mut self, frame: &mut Vec<u8>) {
        self.begin(frame);
        write_event(frame, &Event::Ping);
    }
}

fn write_event(frame: &mut Vec<u8>, event: &Event) {
    frame.extend_from_slice(b"event: ");
    frame.extend_from_slice(event.name().as_bytes());
    frame.extend_from_slice(b"\ndata: ");
    write_json(frame, event);
    frame.extend_from_slice(b"\n\n");
}
