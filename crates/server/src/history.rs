//! What the messages of a conversation owe one another: results to calls, reasoning to a running tool turn.
//!
//! The words of each refusal are those of the hosted API; clients show them to people, and some match on them.

use cachalot_prompt::{Message, Release, Role};
use serde_json::Value;

use crate::error::ApiError;

/// Puts the results of each round of calls into the order of the calls: encodings match them by position, clients by id.
///
/// # Errors
/// 400 for a result that answers no call, and for a call whose arguments are no JSON object.
pub(crate) fn order_results(messages: &mut [Message]) -> Result<(), ApiError> {
    let mut start = 0;
    while start < messages.len() {
        let message = &messages[start];
        let first_result = start + 1;
        match message.role {
            Role::Tool => {
                return Err(at(
                    start,
                    "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'",
                ));
            }
            Role::Assistant if !message.tool_calls.is_empty() => {
                check_arguments(start, message)?;
                let num_results = messages[first_result..].iter().take_while(|next| next.role == Role::Tool).count();
                let (before, results) = messages.split_at_mut(first_result);
                order_round(first_result, &before[start], &mut results[..num_results])?;
                start = first_result + num_results;
            }
            _ => start = first_result,
        }
    }
    Ok(())
}

fn order_round(first_result: usize, caller: &Message, results: &mut [Message]) -> Result<(), ApiError> {
    let calls = &caller.tool_calls;
    let has_ids = calls.iter().all(|call| !call.id.is_empty());
    if !has_ids || results.iter().all(|result| result.tool_call_id.is_none()) {
        // Nothing to go by but the position.
        return match results.get(calls.len()) {
            Some(_) => Err(at(first_result + calls.len(), "there are more tool messages than calls that they answer")),
            None => Ok(()),
        };
    }
    let mut is_answered = vec![false; calls.len()];
    let mut ranks = Vec::with_capacity(results.len());
    for (offset, result) in results.iter().enumerate() {
        let id = result.tool_call_id.as_deref().unwrap_or_default();
        // Ids should be unique; of equal ones the first that has no answer yet is meant.
        let rank = (0..calls.len()).find(|&rank| calls[rank].id == id && !is_answered[rank]).ok_or_else(|| {
            let reason = format!("tool_call_id `{id}` is not the id of an unanswered call of the message before");
            at(first_result + offset, &reason)
        })?;
        is_answered[rank] = true;
        ranks.push(rank);
    }
    // A selection sort: rounds are short, and messages are moved by swapping alone.
    for place in 0..results.len() {
        let next = (place..results.len()).min_by_key(|&index| ranks[index]).expect("the range is not empty");
        results.swap(place, next);
        ranks.swap(place, next);
    }
    Ok(())
}

fn check_arguments(index: usize, message: &Message) -> Result<(), ApiError> {
    for (number, call) in message.tool_calls.iter().enumerate() {
        let text = call.arguments.trim();
        if !text.is_empty() && !matches!(serde_json::from_str(text), Ok(Value::Object(_))) {
            let param = format!("messages[{index}].tool_calls[{number}].function.arguments");
            let message = format!("Invalid {param} value, the text of a JSON object is needed");
            return Err(ApiError::invalid(message).with_param(param));
        }
    }
    Ok(())
}

/// What a server does about reasoning that a client did not send back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingReasoning {
    /// Refuse the request, as the hosted API does: the model would go on without what it thought.
    #[default]
    Refuse,
    /// Read it as empty.
    Accept,
}

/// Whether the prompt has the reasoning of the running turn.
pub(crate) fn keeps_reasoning(release: Release) -> bool {
    matches!(release, Release::V3_2 | Release::V3_2Speciale)
}

/// Checks that the model can go on from here: every call is answered, and the last message asks for a reply.
///
/// # Errors
/// 400 with the message that is at fault.
pub(crate) fn check_completeness(
    messages: &[Message],
    release: Release,
    thinking: bool,
    missing_reasoning: MissingReasoning,
) -> Result<(), ApiError> {
    for (index, message) in messages.iter().enumerate() {
        let results = messages[index + 1..].iter().take_while(|next| next.role == Role::Tool).count();
        if results < message.tool_calls.len() {
            return Err(at(
                index,
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. \
                 (insufficient tool messages following tool_calls message)",
            ));
        }
    }
    if release == Release::R1 {
        check_turns(messages)?;
    }
    let last = messages.len() - 1;
    if thinking && messages[last].role == Role::Assistant && !messages[last].prefix {
        return Err(at(
            last,
            "The last message of deepseek-reasoner must be a user message, or an assistant message with prefix mode on \
             (refer to https://api-docs.deepseek.com/guides/chat_prefix_completion).",
        ));
    }
    if thinking && keeps_reasoning(release) && missing_reasoning == MissingReasoning::Refuse {
        let turn = messages.iter().rposition(|message| matches!(message.role, Role::User | Role::Developer));
        let turn = turn.map_or(0, |index| index + 1);
        let lacks_reasoning = |message: &Message| {
            message.role == Role::Assistant && !message.prefix && message.reasoning_content.is_none()
        };
        if let Some(offset) = messages[turn..].iter().position(lacks_reasoning) {
            let index = turn + offset;
            return Err(at(
                index,
                &format!(
                    "Missing `reasoning_content` field in the assistant message at message index {index}. For more \
                     information, please refer to https://api-docs.deepseek.com/guides/thinking_mode#tool-calls"
                ),
            ));
        }
    }
    Ok(())
}

/// R1 of January 2025 was trained on alternating turns alone.
fn check_turns(messages: &[Message]) -> Result<(), ApiError> {
    let same_speaker =
        |pair: &[Message]| pair[0].role == pair[1].role && matches!(pair[0].role, Role::User | Role::Assistant);
    match messages.windows(2).position(same_speaker) {
        Some(index) => Err(at(
            index + 1,
            &format!(
                "deepseek-reasoner does not support successive user or assistant messages (messages[{index}] and \
                 messages[{}] in your input). You should interleave the user/assistant messages in the message sequence.",
                index + 1
            ),
        )),
        None => Ok(()),
    }
}

fn at(index: usize, message: &str) -> ApiError {
    ApiError::invalid(message).with_param(format!("messages[{index}]"))
}

#[cfg(test)]
mod tests {
    use cachalot_prompt::ToolCall;

    use super::*;

    fn calls(ids: &[&str]) -> Message {
        let call = |id: &&str| ToolCall { id: (*id).to_owned(), name: "f".to_owned(), arguments: "{}".to_owned() };
        Message { tool_calls: ids.iter().map(call).collect(), ..Message::new(Role::Assistant, "") }
    }

    fn result(id: &str) -> Message {
        Message { tool_call_id: Some(id.to_owned()), ..Message::new(Role::Tool, format!("result of {id}")) }
    }

    #[track_caller]
    fn check(messages: &[Message], expected: Result<&[&str], &str>) {
        let mut ordered = messages.to_vec();
        match (order_results(&mut ordered), expected) {
            (Ok(()), Ok(texts)) => {
                let found: Vec<&str> =
                    ordered.iter().filter(|message| message.role == Role::Tool).map(Message::text).collect();
                assert_eq!(found, texts);
            }
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn r1_wants_alternating_turns() {
        let said = |role| Message::new(role, "x");
        let (user, assistant) = (|| said(Role::User), || said(Role::Assistant));
        let check = |release, messages: &[Message]| {
            let result = check_completeness(messages, release, true, MissingReasoning::Accept);
            result.err().map(|error| error.to_string())
        };
        assert_eq!(
            check(Release::R1, &[user(), user()]).as_deref(),
            Some(
                "deepseek-reasoner does not support successive user or assistant messages (messages[0] and messages[1] in your \
                 input). You should interleave the user/assistant messages in the message sequence."
            )
        );
        let found = check(Release::R1, &[user(), assistant(), assistant(), user()]).unwrap();
        assert!(found.contains("(messages[1] and messages[2] in your input)"), "{found}");
        assert_eq!(check(Release::R1, &[said(Role::System), said(Role::System), user(), assistant(), user()]), None);
        // Later releases take them as they come.
        assert_eq!(check(Release::R1_0528, &[user(), user()]), None);
    }

    #[test]
    fn results_follow_their_calls() {
        let user = || Message::new(Role::User, "hi");
        check(&[user(), calls(&["a", "b"]), result("b"), result("a")], Ok(&["result of a", "result of b"]));
        check(
            &[calls(&["a", "b", "c"]), result("c"), result("a"), result("b"), user(), calls(&["a"]), result("a")],
            Ok(&["result of a", "result of b", "result of c", "result of a"]),
        );
        // Fewer results than calls is for `check_completeness` to judge.
        check(&[calls(&["a", "b", "c"]), result("c"), result("a")], Ok(&["result of a", "result of c"]));
        check(&[calls(&["x", "x"]), result("x"), result("x")], Ok(&["result of x", "result of x"]));
        let nameless = || Message::new(Role::Tool, "nameless");
        check(&[calls(&["", ""]), nameless(), nameless()], Ok(&["nameless", "nameless"]));
        check(&[calls(&[""]), nameless(), nameless()], Err("more tool messages than calls"));
        check(&[calls(&["a", "b"]), result("a"), result("z")], Err("tool_call_id `z`"));
        check(&[calls(&["a"]), result("a"), result("a")], Err("tool_call_id `a` is not the id of an unanswered call"));
        check(&[calls(&["a", "b"]), result("a"), nameless()], Err("tool_call_id ``"));
        check(&[user(), result("a")], Err("must be a response to a preceding message with 'tool_calls'"));
        let mut broken = calls(&["a"]);
        broken.tool_calls[0].arguments = "[1]".to_owned();
        check(&[broken], Err("messages[0].tool_calls[0].function.arguments"));
    }
}
