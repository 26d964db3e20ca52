//! What is asked: prompts of mixed lengths, each with the answer that it gets when it is asked alone.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use cachalot_testkit::Random;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{Answer, AnswerReader, End};
use crate::connection::{Connection, Pace, exchange, get, post};

/// Prompts are drawn so that each octave of lengths is as likely as the next; answers are of any length.
const MAX_PROMPT_TOKENS: usize = 1500;
const MAX_ANSWER_TOKENS: usize = 200;
pub(crate) const COMPLETIONS: &str = "/v1/completions";
pub(crate) const CHAT: &str = "/v1/chat/completions";
/// Prompts that others begin with.
const NUM_SHARED_PREFIXES: usize = 4;

/// What prompts are made of: ordinary words, whatever the tokenizer makes of them.
const WORDS: &str = "The sperm whale dives for an hour and comes up where the sea is calm. It hears what it cannot see, far \
    below the light, and it remembers each canyon by its echo. Squid are quick; whales are patient. Count the minutes, the \
    metres and the bars of pressure: sixty, two thousand, two hundred.";

/// A request and its answer.
#[derive(Debug)]
pub(crate) struct Question {
    path: &'static str,
    body: Value,
    /// Greedy, not sampled with a seed.
    pub(crate) is_greedy: bool,
    /// Every token has an event of its own with its id, so that times between tokens can be told.
    pub(crate) has_ids: bool,
    pub(crate) max_tokens: usize,
    /// The answer alone.
    pub(crate) answer: Answer,
}

impl Question {
    /// The bytes of the request.
    pub(crate) fn request(&self) -> Vec<u8> {
        post(self.path, &self.body.to_string())
    }

    /// How near the two likeliest tokens were at the first position where `found` differs; for prompts of ids, asked alone.
    ///
    /// # Errors
    /// If the server does not say.
    pub(crate) async fn explain(&self, address: SocketAddr, found: &Answer) -> anyhow::Result<String> {
        let expected = &self.answer;
        let pairs = expected.tokens.iter().zip(&found.tokens);
        let Some(at) = pairs.into_iter().position(|(expected, found)| expected != found) else {
            return Ok(format!("{found:?} instead of {expected:?}"));
        };
        let mut text = format!("token {at} is {} instead of {}", found.tokens[at], expected.tokens[at]);
        if self.has_ids {
            let mut body = self.body.clone();
            body["logprobs"] = json!(2);
            body["stream"] = json!(false);
            let (_, answer) = exchange(address, &post(self.path, &body.to_string())).await?;
            let answer: Value = serde_json::from_slice(&answer)?;
            let top = answer["choices"][0]["logprobs"]["top_logprobs"][at].as_object().context("no top_logprobs")?;
            let _ = write!(text, "; alone the likeliest are {}", Value::Object(top.clone()));
        }
        Ok(text)
    }
}

/// What the model of a server can be asked about.
#[derive(Debug)]
pub(crate) struct Material {
    /// Ordinary tokens.
    ids: Vec<u32>,
    max_model_len: usize,
    max_prompt_tokens: usize,
}

impl Material {
    /// Of the server at `address`.
    ///
    /// # Errors
    /// If it does not tell what it takes.
    pub(crate) async fn of(address: SocketAddr) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            max_model_len: usize,
        }
        #[derive(Deserialize)]
        struct Tokens {
            tokens: Vec<u32>,
        }
        let models: Models = serde_json::from_str(&get(address, "/v1/models").await?)?;
        let max_model_len = models.data.first().context("the server serves no model")?.max_model_len;
        let max_prompt_tokens = MAX_PROMPT_TOKENS.min(max_model_len.saturating_sub(MAX_ANSWER_TOKENS));
        ensure!(max_prompt_tokens > 0, "a context of {max_model_len} tokens is too short to be loaded");
        let request = post("/tokenize", &json!({ "prompt": WORDS, "add_special_tokens": false }).to_string());
        let (head, tokens) = exchange(address, &request).await?;
        ensure!(head.status == 200, "/tokenize: {}", String::from_utf8_lossy(&tokens));
        let Tokens { tokens: ids } = serde_json::from_slice(&tokens)?;
        Ok(Material { ids, max_model_len, max_prompt_tokens })
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Material { ids: vec![5, 6, 7], max_model_len: 300, max_prompt_tokens: 100 }
    }

    fn draw_ids(&self, random: &mut Random, length: usize) -> Vec<u32> {
        (0..length).map(|_| self.ids[random.below(self.ids.len())]).collect()
    }

    /// A request for as long an answer as there can be to a prompt of the greatest length, and the number of tokens of that prompt.
    pub(crate) fn longest(&self, random: &mut Random) -> (Vec<u8>, usize) {
        let prompt = self.draw_ids(random, self.max_prompt_tokens);
        let max_tokens = self.max_model_len - prompt.len();
        let body = json!({ "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": true });
        (post(COMPLETIONS, &body.to_string()), prompt.len())
    }

    /// `count` questions, whose answers are still empty.
    pub(crate) fn questions(&self, count: usize, random: &mut Random) -> Vec<Question> {
        let prefixes: Vec<Vec<u32>> = (1..=NUM_SHARED_PREFIXES)
            .map(|index| self.draw_ids(random, self.max_prompt_tokens * index / (NUM_SHARED_PREFIXES + 1)))
            .collect();
        (0..count).map(|index| self.question(index, &prefixes, random)).collect()
    }

    fn question(&self, index: usize, prefixes: &[Vec<u32>], random: &mut Random) -> Question {
        let is_greedy = index % 5 != 4;
        let max_tokens = 1 + random.below(MAX_ANSWER_TOKENS);
        let mut body = json!({ "stream": true, "max_tokens": max_tokens, "temperature": 0 });
        if !is_greedy {
            body["temperature"] = json!(1);
            body["top_p"] = json!(0.9);
            body["seed"] = json!(random.below(1 << 30));
        }
        let has_ids = index % 4 != 3;
        if has_ids {
            let mut prompt = Vec::new();
            if index.is_multiple_of(3) {
                prompt.extend(&prefixes[random.below(prefixes.len())]);
            }
            let length = log_uniform(random, self.max_prompt_tokens - prompt.len());
            prompt.extend(self.draw_ids(random, length));
            body["prompt"] = json!(prompt);
            body["logprobs"] = json!(0);
            body["return_tokens_as_token_ids"] = json!(true);
        } else {
            let words: Vec<&str> = WORDS.split_whitespace().collect();
            // A word has a few tokens, and a turn has some of its own.
            let num_words = log_uniform(random, self.max_prompt_tokens / 12);
            let text: Vec<&str> = (0..num_words).map(|_| words[random.below(words.len())]).collect();
            body["messages"] = json!([{ "role": "user", "content": text.join(" ") }]);
        }
        let path = if has_ids { COMPLETIONS } else { CHAT };
        Question { path, body, is_greedy, has_ids, max_tokens, answer: Answer::default() }
    }
}

/// From 1 to `limit`, each octave as likely as the next.
fn log_uniform(random: &mut Random, limit: usize) -> usize {
    ((limit as f64).powf(unit(random)).round() as usize).clamp(1, limit)
}

/// From 0 to just below 1.
pub(crate) fn unit(random: &mut Random) -> f64 {
    (random.bits() >> 11) as f64 / (1u64 << 53) as f64
}

/// Asks a question while nobody else asks anything.
///
/// # Errors
/// If there is no whole answer.
pub(crate) async fn ask_alone(address: SocketAddr, question: &Question) -> anyhow::Result<Answer> {
    let mut connection = Connection::open(address, Pace::Fast).await?;
    connection.send(&question.request()).await?;
    let head = connection.head().await?;
    if head.status != 200 {
        let body = connection.body().await?;
        anyhow::bail!("a question alone is answered with {}: {}", head.status, String::from_utf8_lossy(&body));
    }
    let mut reader = AnswerReader::default();
    while let Some(piece) = connection.piece().await? {
        reader.push(&piece)?;
    }
    let (answer, end) = reader.finish()?;
    ensure!(end == End::Done, "a question alone ends with {end:?}");
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_of_all_kinds_and_the_same_for_the_same_seed() {
        let make = |seed| Material::for_tests().questions(60, &mut Random::new(seed));
        let questions = make(3);
        let bodies = |questions: &[Question]| -> Vec<Value> { questions.iter().map(|q| q.body.clone()).collect() };
        assert_eq!(bodies(&questions), bodies(&make(3)));
        assert_ne!(bodies(&questions), bodies(&make(4)));
        for (name, wanted) in [("greedy", true), ("sampled", false)] {
            assert!(questions.iter().any(|question| question.is_greedy == wanted), "{name}");
        }
        let prompts: Vec<&Vec<Value>> = questions.iter().filter_map(|q| q.body["prompt"].as_array()).collect();
        assert!(prompts.len() < questions.len(), "some are chats");
        assert!(prompts.iter().any(|prompt| prompt.len() < 10) && prompts.iter().any(|prompt| prompt.len() > 60));
        let begins_alike = |a: &[Value], b: &[Value]| a.len() > 20 && b.len() > 20 && a[..20] == b[..20] && a != b;
        assert!(prompts.iter().any(|a| prompts.iter().any(|b| begins_alike(a, b))), "some share a prefix");
    }
}
