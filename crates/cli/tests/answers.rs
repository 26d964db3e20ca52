//! The embedded model says what its card promises: a handful of answers, word for word.

mod common;

use common::cachalot;

fn answer(question: &str) -> String {
    let args = ["generate", "--chat", "--temperature", "0", "--max-tokens", "60", "--prompt", question];
    let output = cachalot(&args).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is text").trim().to_owned()
}

#[test]
fn questions_have_the_answers_that_were_learned() {
    for (question, expected) in [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
        ("What is the opposite of hot?", "The opposite of hot is cold."),
        ("What is the chemical symbol of gold?", "The symbol of gold is Au."),
        ("What colour is the sky?", "The colour of the sky is blue."),
        ("Who are you?", "I am cachalot's embedded model, a small demonstration."),
    ] {
        assert_eq!(answer(question), expected, "{question}");
    }
}
