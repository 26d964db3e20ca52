//! The split of a reply into reasoning and content, and stop strings.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::{Delta, Ending, OutputMode, OutputOptions, OutputParser, StopStrings};
use Release::*;

/// What a whole reply amounts to: reasoning, content, tokens of reasoning, the stop string that ended it.
type Outcome = (String, String, usize, Option<String>);

fn parse(prompt: &Prompt, reasoning_open: bool, options: OutputOptions, ids: &[u32]) -> Outcome {
    let mut parser = OutputParser::new(prompt, reasoning_open, options);
    let (mut reasoning, mut content) = (String::new(), String::new());
    let mut deltas: Vec<Delta> = ids.iter().flat_map(|&id| parser.push(id)).collect();
    deltas.extend(parser.finish(Ending::Length));
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => {
                assert!(!text.is_empty() && content.is_empty(), "reasoning comes in pieces before the content");
                reasoning += &text;
            }
            Delta::Content(text) => {
                assert!(!text.is_empty(), "no empty pieces");
                content += &text;
            }
            Delta::CallBegin { .. } | Delta::CallArguments(_) => {}
        }
    }
    (reasoning, content, parser.reasoning_tokens(), parser.stop_hit().map(str::to_owned))
}

#[test]
fn reasoning_and_content() {
    // Release, whether the prompt opened the reasoning, the reply: reasoning, content, tokens of reasoning.
    let cases = [
        (V3_2, true, "ab</think>hello<｜end▁of▁sentence｜>", "ab", "hello", 1),
        (V3_2, false, "hello<｜end▁of▁sentence｜>", "", "hello", 0),
        // From V3.1 on the tags stand alone, and newlines are the model's own.
        (V3_2, true, "\nab\n</think>\n\nhello", "\nab\n", "\n\nhello", 3),
        (V3_2, true, "</think>hello", "", "hello", 0),
        (V3_2, true, "ab", "ab", "", 1),
        (V3_2, true, "ab\n", "ab\n", "", 2),
        // R1's family sets them apart by newlines.
        (R1, true, "ab\n</think>\n\nhello", "ab", "hello", 2),
        (R1, true, "\n</think>\n\nhello", "", "hello", 1),
        (R1, true, "ab\n\nab</think>hello\n", "ab\n\nab", "hello\n", 3),
        (R1, true, "ab\n", "ab\n", "", 2),
        (R1_0528, false, "<think>\nab\n</think>\n\nhello", "ab", "hello", 3),
        (R1_0528, false, "<think>\n\n</think>\n\nhello", "", "hello", 1),
        (R1_0528, false, "\n<think>\nab\n</think>\n\nhello", "ab", "hello", 3),
        (R1_0528, false, "<think>ab", "ab", "", 1),
        (R1_0528, false, "hello", "", "hello", 0),
        (R1_0528, false, " \n hello", "", " \n hello", 0),
        (R1_0528, false, "\n", "", "\n", 0),
        (V3, false, "\nhello", "", "\nhello", 0),
        (R1_0528, true, "ab</think>\n\n\n\nhello", "ab", "hello", 1),
        // A tag that is out of place is dropped.
        (V3_2, true, "<think>ab</think>hello", "ab", "hello", 1),
        (V3_2, true, "ab<think>ab</think>hello", "abab", "hello", 2),
        (V3_2, false, "</think>hello", "", "hello", 0),
        (V3_2, false, "hello<think>ab</think>hello", "", "helloabhello", 0),
        // Tokens that are no text.
        (
            V3_2,
            false,
            "<｜begin▁of▁sentence｜>a<｜User｜><｜Assistant｜><｜▁pad▁｜><|EOT|>b<｜end▁of▁sentence｜>",
            "",
            "ab",
            0,
        ),
        (V3_2, true, "<｜begin▁of▁sentence｜>ab<｜end▁of▁sentence｜></think>b", "ab", "b", 1),
        // Markup of calls is no content, nor is a control token that has no place here.
        (V3_2, false, "hello\n\n<｜DSML｜function_calls>\n", "", "hello", 0),
        (V3_2, false, "hello<｜tool▁calls▁begin｜>b<｜fim▁hole｜>", "", "hellob", 0),
        (V3_1, false, "hello<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}", "", "hello", 0),
        (V3_1, true, "ab<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}", "ab", "", 1),
        // Characters over several tokens, within and at the end of the reasoning.
        (V3_2, true, "鲸🐋</think>鲸", "鲸🐋", "鲸", 7),
    ];
    for (release, open, reply, reasoning, content, tokens) in cases {
        let prompt = toy_prompt(release);
        let ids = prompt.tokenizer().encode(reply).unwrap();
        let outcome = parse(&prompt, open, OutputOptions::default(), &ids);
        assert_eq!(outcome, (reasoning.to_owned(), content.to_owned(), tokens, None), "{release}, {open}, {reply:?}");
    }
}

#[test]
fn an_unfinished_character_ends_with_its_part() {
    let prompt = toy_prompt(V3_2);
    let tokenizer = prompt.tokenizer();
    let whale = tokenizer.encode("鲸").unwrap();
    let close = id(tokenizer, "</think>");
    let ids = [&whale[..2], &[close], &whale[..1]].concat();
    let outcome = parse(&prompt, true, OutputOptions::default(), &ids);
    assert_eq!(outcome, ("\u{FFFD}".to_owned(), "\u{FFFD}".to_owned(), 2, None));
    // Half a character is content, and then it is too late to think.
    let open = id(tokenizer, "<think>");
    let ids = [&whale[..1], &[open], &whale[..]].concat();
    let outcome = parse(&prompt, false, OutputOptions::default(), &ids);
    assert_eq!(outcome, (String::new(), "\u{FFFD}鲸".to_owned(), 0, None));
}

#[test]
fn pieces_come_as_soon_as_they_are_certain() {
    let prompt = toy_prompt(R1);
    let tokenizer = prompt.tokenizer();
    let mut parser = OutputParser::new(&prompt, true, OutputOptions { stop: vec!["lla".into()], ..Default::default() });
    let reasoning = |text: &str| vec![Delta::Reasoning(text.to_owned())];
    let content = |text: &str| vec![Delta::Content(text.to_owned())];
    let mut push = |text: &str| {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids.len(), 1, "{text:?} is one token");
        parser.push(ids[0])
    };
    assert_eq!(push("ab"), reasoning("ab"));
    assert_eq!(push("\n"), []);
    assert_eq!(push("ll"), reasoning("\nll"));
    assert_eq!(push("\n\n"), []);
    assert_eq!(push("</think>"), []);
    assert_eq!(push("\n\n"), []);
    assert_eq!(push("he"), content("he"));
    assert_eq!(push("ll"), []);
    assert_eq!(push("o"), content("llo"));
    assert_eq!(push("l"), []);
    assert!(!parser.is_reasoning());
    assert_eq!(parser.finish(Ending::Stop), content("l"));
    assert_eq!(parser.finish(Ending::Stop), []);
}

#[test]
fn stop_strings_in_replies() {
    let options =
        |stop: &[&str], mode| OutputOptions { mode, stop: stop.iter().map(|stop| (*stop).to_owned()).collect() };
    let chat = OutputMode::Chat;
    let cases = [
        // Reasoning is not watched, and what follows the stop string is gone.
        (options(&["b"], chat), true, "ab</think>heblo", "ab", "he", Some("b")),
        (options(&["ll", "lo"], chat), false, "hello", "", "he", Some("ll")),
        (options(&["x"], chat), false, "hello", "", "hello", None),
        // Tokens that are no text do not interrupt a stop string.
        (options(&["lo"], chat), false, "hel<｜User｜>lo", "", "hel", Some("lo")),
        (options(&["ll"], chat), false, "hel<｜User｜>lo", "", "he", Some("ll")),
        // A completion has no reasoning, and its tags are text.
        (options(&[], OutputMode::Completion), true, "ab</think>he<think>", "", "ab</think>he<think>", None),
        (options(&["</th"], OutputMode::Completion), false, "ab</think>he", "", "ab", Some("</th")),
        (options(&[], OutputMode::Completion), false, "a<｜end▁of▁sentence｜>b", "", "ab", None),
    ];
    let prompt = toy_prompt(V3_2);
    for (options, open, reply, reasoning, content, stop) in cases {
        let ids = prompt.tokenizer().encode(reply).unwrap();
        let (found_reasoning, found_content, _, found_stop) = parse(&prompt, open, options, &ids);
        let found = (found_reasoning.as_str(), found_content.as_str(), found_stop.as_deref());
        assert_eq!(found, (reasoning, content, stop), "{reply:?}");
    }
}

#[test]
fn stop_strings_hold_back_no_more_than_needed() {
    /// Stop strings, pieces in, pieces out (the last from the flush), the hit.
    type Case = (&'static [&'static str], &'static [&'static str], &'static [&'static str], Option<&'static str>);
    let cases: [Case; 9] = [
        (&["END"], &["a E", "N", "x"], &["a ", "", "ENx", ""], None),
        (&["END"], &["a EN", "D b"], &["a ", "", ""], Some("END")),
        (&["aab"], &["aa", "ab"], &["", "a", ""], Some("aab")),
        (&["aab"], &["aaa"], &["a", "aa"], None),
        // Complete first wins, and of those complete at once the longest.
        (&["abcd", "bc"], &["abcd"], &["a", ""], Some("bc")),
        (&["c", "abc"], &["xabc"], &["x", ""], Some("abc")),
        (&["鲸落"], &["鲸", "落x"], &["", "", ""], Some("鲸落")),
        (&[""], &["a", ""], &["a", "", ""], None),
        (&[], &["a"], &["a", ""], None),
    ];
    for (strings, pieces, expected, hit) in cases {
        let mut stop = StopStrings::new(strings.iter().map(|stop| (*stop).to_owned()).collect());
        let mut found: Vec<_> = pieces.iter().map(|piece| stop.push(piece)).collect();
        found.push(stop.flush());
        assert_eq!(found, expected, "{strings:?}, {pieces:?}");
        assert_eq!(stop.hit(), hit, "{strings:?}, {pieces:?}");
        assert_eq!(stop.push("more"), if hit.is_some() { "" } else { "more" });
    }
}

/// What a stop string does to a whole text, by its definition.
fn stopped(text: &str, stops: &[String]) -> (String, Option<String>) {
    for (at, character) in text.char_indices() {
        let end = at + character.len_utf8();
        let ending = stops.iter().filter(|stop| !stop.is_empty() && text[..end].ends_with(stop.as_str()));
        if let Some(stop) = ending.max_by_key(|stop| stop.len()) {
            return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
        }
    }
    (text.to_owned(), None)
}

proptest! {
    #[test]
    fn stop_strings_do_not_depend_on_the_pieces(
        pieces in prop::collection::vec("[ab鲸]{0,4}", 0..12),
        stops in prop::collection::vec("[ab鲸]{0,4}", 0..4),
    ) {
        let expected = stopped(&pieces.concat(), &stops);
        let mut stop = StopStrings::new(stops);
        let mut text: String = pieces.iter().map(|piece| stop.push(piece)).collect();
        text += &stop.flush();
        prop_assert_eq!((text, stop.hit().map(str::to_owned)), expected);
    }

    /// Any tokens at all: nothing panics, no piece is empty, and no control token that has no text shows.
    #[test]
    fn any_reply_can_be_parsed(picks in prop::collection::vec(any::<prop::sample::Index>(), 0..40), open: bool) {
        static PROMPTS: LazyLock<[Prompt; 2]> = LazyLock::new(|| [toy_prompt(V3_2), toy_prompt(R1_0528)]);
        for prompt in PROMPTS.iter() {
            let size = prompt.tokenizer().vocab_size();
            // Control tokens are as likely as all others together.
            let ids: Vec<u32> = picks.iter().map(|pick| {
                let index = pick.index(2 * size);
                if index < size { index as u32 } else { (size - 1 - index % 22) as u32 }
            }).collect();
            let (reasoning, content, tokens, _) = parse(prompt, open, OutputOptions::default(), &ids);
            prop_assert!(tokens <= ids.len());
            for token in ["<｜", "｜>", "｜DSML｜", "<think>", "</think>", "<dsml:"] {
                prop_assert!(!reasoning.contains(token) && !content.contains(token), "{} {}", reasoning, content);
            }
        }
    }
}
