//! Token ids of one choice to text.

use cachalot_prompt::{Defect, Delta, Ending, OutputMode, OutputOptions, OutputParser, Prompt};

/// Where a token belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// The reasoning, with the markup that ends it.
    Reasoning,
    /// The answer.
    Content,
    /// Tool calls, with their markup.
    Calls,
}

/// [`OutputParser`] for a server that may have no tokenizer: without one, every text is empty.
pub(crate) struct Decoder {
    parser: Option<OutputParser>,
    num_chars: usize,
}

impl Decoder {
    /// For a reply to a prompt that ends within the reasoning, or not.
    pub(crate) fn chat(prompt: &Prompt, reasoning_open: bool, options: OutputOptions) -> Self {
        Decoder { parser: Some(OutputParser::new(prompt, reasoning_open, options)), num_chars: 0 }
    }

    /// For a completion: everything is content.
    pub(crate) fn completion(prompt: Option<&Prompt>, stop: &[String]) -> Self {
        let options = OutputOptions { mode: OutputMode::Completion, stop: stop.to_vec() };
        Decoder { parser: prompt.map(|prompt| OutputParser::new(prompt, false, options)), num_chars: 0 }
    }

    /// Takes the next token; returns what it set free, and where it belongs.
    pub(crate) fn push(&mut self, id: u32) -> (Vec<Delta>, Channel) {
        let Some(parser) = &mut self.parser else { return (Vec::new(), Channel::Content) };
        let was_reasoning = parser.is_reasoning();
        let deltas = parser.push(id);
        // A tag belongs to the reasoning on whichever side of it.
        let channel = if parser.is_calling() {
            Channel::Calls
        } else if was_reasoning || parser.is_reasoning() {
            Channel::Reasoning
        } else {
            Channel::Content
        };
        self.num_chars += num_chars(&deltas);
        (deltas, channel)
    }

    /// Ends the text; returns what was held back.
    pub(crate) fn finish(&mut self, ending: Ending) -> Vec<Delta> {
        let deltas = self.parser.as_mut().map(|parser| parser.finish(ending)).unwrap_or_default();
        self.num_chars += num_chars(&deltas);
        deltas
    }

    /// The stop string that has ended the text.
    pub(crate) fn stop_hit(&self) -> Option<&str> {
        self.parser.as_ref().and_then(OutputParser::stop_hit)
    }

    /// What was wrong with tool-call markup of which no call could be made.
    pub(crate) fn defect(&self) -> Option<&Defect> {
        self.parser.as_ref().and_then(OutputParser::defect)
    }

    /// The number of tool calls that have begun.
    pub(crate) fn num_calls(&self) -> usize {
        self.parser.as_ref().map_or(0, OutputParser::num_calls)
    }

    /// Tokens of reasoning so far, without the tags.
    pub(crate) fn num_reasoning_tokens(&self) -> usize {
        self.parser.as_ref().map_or(0, OutputParser::reasoning_tokens)
    }

    /// Characters of all text returned so far.
    pub(crate) fn num_chars(&self) -> usize {
        self.num_chars
    }
}

fn num_chars(deltas: &[Delta]) -> usize {
    let text = |delta: &Delta| match delta {
        Delta::Reasoning(text) | Delta::Content(text) => text.chars().count(),
        Delta::CallBegin { .. } | Delta::CallArguments(_) => 0,
    };
    deltas.iter().map(text).sum()
}
