//! Token ids of one choice to text.

use cachalot_prompt::{Delta, OutputMode, OutputOptions, OutputParser, Prompt};

/// Text that became certain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) reasoning: String,
    pub(crate) content: String,
}

/// Which of the two texts a token belongs to; markup that ends the reasoning belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    Reasoning,
    Content,
}

/// [`OutputParser`] for a server that may have no tokenizer: without one, every text is empty.
pub(crate) struct Decoder {
    parser: Option<OutputParser>,
    num_chars: usize,
}

impl Decoder {
    /// For a reply to a prompt that ends within the reasoning, or not. `stop` ends the content, not the reasoning.
    pub(crate) fn chat(prompt: &Prompt, reasoning_open: bool, stop: &[String]) -> Self {
        Decoder::new(prompt, reasoning_open, OutputOptions { mode: OutputMode::Chat, stop: stop.to_vec() })
    }

    /// For a completion: everything is content.
    pub(crate) fn completion(prompt: Option<&Prompt>, stop: &[String]) -> Self {
        match prompt {
            Some(prompt) => {
                Decoder::new(prompt, false, OutputOptions { mode: OutputMode::Completion, stop: stop.to_vec() })
            }
            None => Decoder { parser: None, num_chars: 0 },
        }
    }

    fn new(prompt: &Prompt, reasoning_open: bool, options: OutputOptions) -> Self {
        Decoder { parser: Some(OutputParser::new(prompt, reasoning_open, options)), num_chars: 0 }
    }

    /// Takes the next token; returns what it set free, and where it belongs.
    pub(crate) fn push(&mut self, id: u32) -> (Text, Channel) {
        let Some(parser) = &mut self.parser else { return (Text::default(), Channel::Content) };
        let was_reasoning = parser.is_reasoning();
        let deltas = parser.push(id);
        // A tag belongs to the reasoning on whichever side of it.
        let in_reasoning = was_reasoning || parser.is_reasoning();
        let channel = if in_reasoning { Channel::Reasoning } else { Channel::Content };
        (self.take(deltas), channel)
    }

    /// Ends the text; returns what was held back.
    pub(crate) fn finish(&mut self) -> Text {
        let deltas = self.parser.as_mut().map(OutputParser::finish).unwrap_or_default();
        self.take(deltas)
    }

    /// Whether a stop string has ended the text.
    pub(crate) fn is_stopped(&self) -> bool {
        self.parser.as_ref().is_some_and(|parser| parser.stop_hit().is_some())
    }

    /// Tokens of reasoning so far, without the tags.
    pub(crate) fn num_reasoning_tokens(&self) -> usize {
        self.parser.as_ref().map_or(0, OutputParser::reasoning_tokens)
    }

    /// Characters of all text returned so far.
    pub(crate) fn num_chars(&self) -> usize {
        self.num_chars
    }

    fn take(&mut self, deltas: Vec<Delta>) -> Text {
        let mut text = Text::default();
        for delta in deltas {
            let (part, so_far) = match delta {
                Delta::Reasoning(part) => (part, &mut text.reasoning),
                Delta::Content(part) | Delta::CallBegin { name: part } | Delta::CallArguments(part) => {
                    (part, &mut text.content)
                }
            };
            self.num_chars += part.chars().count();
            if so_far.is_empty() { *so_far = part } else { so_far.push_str(&part) }
        }
        text
    }
}
