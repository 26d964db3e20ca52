//! One client: how it behaves, and what became of its request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use cachalot_testkit::Random;

use crate::answer::{Answer, AnswerReader, End};
use crate::connection::{Connection, Pace};
use crate::load::Plan;
use crate::question::{Question, unit};
use crate::rubbish::{self, Rubbish};

/// A request that has not ended after so long never will.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long a client that goes away before the answer begins waits at most.
const HANG_UP_WITHIN: Duration = Duration::from_secs(1);

/// What a client does.
#[derive(Debug)]
pub(crate) enum Behaviour {
    /// Reads what comes when it comes.
    Plain,
    /// Reads a few bytes every 100 ms for so long, and then like others.
    Slow(Duration),
    /// Goes away.
    HangUp(Moment, Farewell),
    /// Sends rubbish.
    Rubbish(Rubbish),
}

/// When a client goes away.
#[derive(Debug)]
pub(crate) enum Moment {
    /// When it has sent this part of its request.
    Sending(f64),
    /// So long after it has sent the request.
    Waiting(Duration),
    /// When it has read so many tokens.
    Reading(usize),
}

/// How a client goes away.
#[derive(Debug)]
pub(crate) enum Farewell {
    Close,
    Reset,
}

impl Behaviour {
    /// One in five hangs up, one in twenty reads slowly, one in twenty sends rubbish.
    pub(crate) fn draw(random: &mut Random, question: &Question, plan: &Plan) -> Self {
        match random.below(100) {
            0..20 => {
                let moment = match random.below(3) {
                    0 => Moment::Sending(unit(random)),
                    1 => Moment::Waiting(HANG_UP_WITHIN.mul_f64(unit(random))),
                    _ => Moment::Reading(1 + random.below(question.max_tokens)),
                };
                let farewell = if random.below(2) == 0 { Farewell::Close } else { Farewell::Reset };
                Behaviour::HangUp(moment, farewell)
            }
            20..25 => Behaviour::Slow(plan.slow_for),
            25..30 => Behaviour::Rubbish(rubbish::of_kind(random.below(rubbish::NUM_KINDS), plan.too_many_bytes)),
            _ => Behaviour::Plain,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Behaviour::Plain => "plain",
            Behaviour::Slow(_) => "slow readers",
            Behaviour::HangUp(..) => "hang up",
            Behaviour::Rubbish(_) => "rubbish",
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was accepted and ended once, as it should.
    Answered(Answer),
    /// It was accepted and ended once, with an error event that says this.
    Failed(String),
    /// The server had no room for it, and said so properly.
    Refused,
    /// The client went away before the end.
    HungUp,
    /// The rubbish was answered as it should be.
    RubbishRefused,
    /// Something happened that must not.
    Broken(String),
}

/// When the tokens of an answer came.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// From the connection to the first token.
    pub(crate) first_token: Option<Duration>,
    /// From one arrival of tokens to the next. What comes in one read is one arrival.
    pub(crate) waits: Vec<Duration>,
    /// Tokens after the first arrival.
    pub(crate) num_later_tokens: usize,
}

/// Sends a request, and sees it through.
pub(crate) async fn run(address: SocketAddr, question: &Question, behaviour: &Behaviour) -> (Outcome, Times) {
    let mut times = Times::default();
    let exchange = async {
        match behaviour {
            Behaviour::Rubbish(rubbish) => send_rubbish(address, rubbish).await,
            _ => ask(address, question, behaviour, &mut times).await,
        }
    };
    let outcome = match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::Broken(format!("{error:#}")),
        Err(_) => Outcome::Broken(format!("no end within {PATIENCE:?}")),
    };
    (outcome, times)
}

async fn ask(
    address: SocketAddr,
    question: &Question,
    behaviour: &Behaviour,
    times: &mut Times,
) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let pace = if matches!(behaviour, Behaviour::Slow(_)) { Pace::Slow } else { Pace::Fast };
    let mut connection = Connection::open(address, pace).await?;
    let request = question.request();
    let leave = |connection: Connection, farewell: &Farewell| {
        if matches!(farewell, Farewell::Reset) {
            connection.reset();
        }
        Ok(Outcome::HungUp)
    };
    match behaviour {
        Behaviour::HangUp(Moment::Sending(part), farewell) => {
            connection.send(&request[..(request.len() as f64 * part) as usize]).await?;
            return leave(connection, farewell);
        }
        Behaviour::HangUp(Moment::Waiting(wait), farewell) => {
            connection.send(&request).await?;
            tokio::time::sleep(*wait).await;
            return leave(connection, farewell);
        }
        _ => connection.send(&request).await?,
    }
    let head = connection.head().await?;
    if head.status != 200 {
        let body = connection.body().await?;
        let message = String::from_utf8_lossy(&body);
        ensure!(matches!(head.status, 429 | 503), "a good request is answered with {}: {message}", head.status);
        let retry_after = head.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
        ensure!(retry_after.is_some(), "{} comes without Retry-After: {message}", head.status);
        return Ok(Outcome::Refused);
    }
    let mut reader = AnswerReader::default();
    let mut latest_arrival: Option<Instant> = None;
    while let Some(piece) = connection.piece().await? {
        let num_tokens_before = reader.answer.tokens.len();
        reader.push(&piece)?;
        let num_new_tokens = reader.answer.tokens.len() - num_tokens_before;
        if num_new_tokens > 0 {
            let arrival = connection.read_at;
            match latest_arrival.replace(arrival) {
                None => times.first_token = Some(arrival - began),
                Some(latest) => {
                    times.num_later_tokens += num_new_tokens;
                    if latest != arrival {
                        times.waits.push(arrival - latest);
                    }
                }
            }
        }
        if let Behaviour::HangUp(Moment::Reading(at), farewell) = behaviour
            && reader.answer.tokens.len() >= *at
        {
            return leave(connection, farewell);
        }
        if let Behaviour::Slow(time) = behaviour
            && began.elapsed() > *time
        {
            connection.pace = Pace::Fast;
        }
    }
    let (answer, end) = reader.finish()?;
    connection.closed().await?;
    Ok(match end {
        End::Done => Outcome::Answered(answer),
        End::Error(message) => Outcome::Failed(message),
    })
}

async fn send_rubbish(address: SocketAddr, rubbish: &Rubbish) -> anyhow::Result<Outcome> {
    let name = rubbish.name;
    let mut connection = Connection::open(address, Pace::Fast).await?;
    // A server may answer, and close, before it has read all of it.
    let sent = connection.send(&rubbish.bytes).await;
    let Some(expected) = rubbish.status else {
        connection.finish_sending().await?;
        return match connection.head().await {
            Ok(head) if head.status < 400 => bail!("{name} is answered with {}", head.status),
            _ => Ok(Outcome::RubbishRefused),
        };
    };
    match connection.head().await {
        Ok(head) => {
            ensure!(head.status == expected, "{name} is answered with {} instead of {expected}", head.status);
            Ok(Outcome::RubbishRefused)
        }
        // The reset that follows what was not read can overtake the answer.
        Err(_) if expected == 431 && sent.is_err() => Ok(Outcome::RubbishRefused),
        Err(error) => Err(error.context(format!("{name} is not answered"))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::question::Material;

    /// What a client makes of a server that answers with these bytes.
    async fn outcome(answer: String, behaviour: &Behaviour) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = [0; 4096];
            // Of a client that hangs up there may be nothing to read, and nobody to write to.
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        let question = Material::for_tests().questions(1, &mut Random::new(1)).remove(0);
        let (outcome, _) = run(address, &question, behaviour).await;
        server.await.expect("the server of the test ends");
        outcome
    }

    fn chunked(events: &str) -> String {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        format!("{head}{:x}\r\n{events}\r\n0\r\n\r\n", events.len())
    }

    const TOKEN: &str = "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}\n\n";
    const LAST: &str = "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    #[tokio::test]
    async fn good_answers_are_told_from_bad_ones() {
        let whole = chunked(&[TOKEN, LAST, DONE].concat());
        let refusal = |headers: &str| format!("HTTP/1.1 503 No\r\n{headers}content-length: 2\r\n\r\n{{}}");
        let error = chunked(&format!("{TOKEN}data: {{\"error\":{{\"message\":\"no\"}}}}\n\n"));
        let mut cut = whole.clone();
        cut.truncate(whole.len() - 8);
        for (name, answer, expected) in [
            ("a whole answer", whole.clone(), "Answered"),
            ("an answer that ends with an error", error, "Failed(\"no\")"),
            ("a proper refusal", refusal("retry-after: 1\r\n"), "Refused"),
            ("a refusal that does not say when to come again", refusal(""), "Broken(\"503 comes without Retry-After"),
            ("an answer that was cut", cut, "Broken(\"the connection ended within a chunk"),
            ("an answer without an end", chunked(TOKEN), "Broken(\"the body ends without [DONE]"),
            ("an answer with two ends", chunked(&[LAST, DONE, DONE].concat()), "Broken(\"the answer goes on"),
            ("an answer with something behind it", format!("{whole}HTTP/1.1"), "Broken(\"something follows the answer"),
            ("a wrong status", "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into(), "Broken(\"a good request"),
            ("no answer", String::new(), "Broken(\"the connection ended within the answer"),
        ] {
            let found = format!("{:?}", outcome(answer, &Behaviour::Plain).await);
            assert!(found.starts_with(expected), "{name}: {found}");
        }
    }

    #[tokio::test]
    async fn clients_behave_as_they_should() {
        let whole = chunked(&[TOKEN, LAST, DONE].concat());
        let hang_up = |moment| Behaviour::HangUp(moment, Farewell::Reset);
        let rubbish = |status| Behaviour::Rubbish(Rubbish { name: "rubbish", bytes: b"?".to_vec(), status });
        for (behaviour, expected) in [
            (hang_up(Moment::Sending(0.5)), "HungUp"),
            (hang_up(Moment::Waiting(Duration::from_millis(1))), "HungUp"),
            (hang_up(Moment::Reading(1)), "HungUp"),
            (hang_up(Moment::Reading(2)), "Answered"),
            (Behaviour::Slow(Duration::from_millis(200)), "Answered"),
            (rubbish(Some(200)), "RubbishRefused"),
            (rubbish(Some(400)), "Broken(\"rubbish is answered with 200 instead of 400"),
            (rubbish(None), "Broken(\"rubbish is answered with 200"),
        ] {
            let found = format!("{:?}", outcome(whole.clone(), &behaviour).await);
            assert!(found.starts_with(expected), "{behaviour:?}: {found}");
        }
    }
}
