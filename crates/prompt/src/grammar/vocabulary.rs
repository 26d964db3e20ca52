//! A tokenizer's vocabulary as llguidance wants it: a trie of the tokens' bytes, and slices of it that are decided at once.
//!
//! Control tokens get the marker in front that keeps them from matching text. An id without bytes is in no mask.

use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};

use crate::Tokenizer;

/// The most states of a grammar's lexer; each takes one or two kB. llguidance's own limit is four times this.
const MAX_LEXER_STATES: usize = 60_000;

/// What every grammar of a checkpoint shares. Takes a part of a second to make.
pub(crate) struct Vocabulary {
    factory: ParserFactory,
    /// Every token that there is.
    pub(super) all: SimpleVob,
    /// The token by which llguidance speaks of the end.
    pub(super) eos: TokenId,
}

impl Vocabulary {
    /// # Errors
    /// If the tokenizer has no token that ends a reply, or llguidance cannot use it.
    pub(super) fn new(tokenizer: &Arc<Tokenizer>, eos_token_ids: &[u32]) -> Result<Self, String> {
        let num_tokens = u32::try_from(tokenizer.vocab_size()).map_err(|error| error.to_string())?;
        let eos = eos_token_ids.iter().copied().find(|&id| id < num_tokens && !tokenizer.token_bytes(id).is_empty());
        let eos = eos.ok_or("no token ends a reply")?;
        let control = tokenizer.control_ids();
        let words: Vec<Vec<u8>> = (0..num_tokens)
            .map(|id| match tokenizer.token_bytes(id) {
                bytes if control.contains(&id) && !bytes.is_empty() => {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
                }
                bytes => bytes.to_vec(),
            })
            .collect();
        let mut all = SimpleVob::alloc(words.len());
        (0..).zip(&words).filter(|(_, word)| !word.is_empty()).for_each(|(id, _)| all.allow_token(id));
        let trie = TokTrie::from(&TokRxInfo::new(num_tokens, eos), &words);
        let env: TokEnv = Arc::new(Env { trie, tokenizer: Arc::clone(tokenizer) });
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(|error| error.to_string())?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        factory.limits_mut().max_lexer_states = MAX_LEXER_STATES;
        Ok(Vocabulary { factory, all, eos })
    }

    /// Compiles a grammar, which may refer to a second one as `@answer`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn compile(&self, source: String, answer: Option<&str>) -> Result<Matcher, String> {
        let mut grammar = TopLevelGrammar::from_lark(source);
        grammar.grammars.extend(answer.map(|source| GrammarWithLexer {
            name: Some("answer".to_owned()),
            lark_grammar: Some(source.to_owned()),
            ..GrammarWithLexer::default()
        }));
        let parser = self.factory.create_parser(grammar).map_err(|error| plain(&format!("{error:#}")))?;
        Ok(Matcher::new(Ok(parser)))
    }
}

/// What llguidance says, without the places in a grammar that the client has not seen.
pub(super) fn plain(error: &str) -> String {
    let error = error.strip_suffix("<non-verbose/>").unwrap_or(error).trim();
    match error.split_once("failed to compile JSON schema: ") {
        // Behind the reason comes the line of the grammar.
        Some((_, reason)) => reason.lines().next().unwrap_or(reason).to_owned(),
        None => error.to_owned(),
    }
}

struct Env {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// As the encoder would: what a grammar forces is then made of the tokens that the model was trained on.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.tokenizer.encode_plain(text).unwrap_or_else(|_| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }
}
