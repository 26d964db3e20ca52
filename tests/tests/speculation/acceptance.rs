//! On checkpoints whose module is right by construction, every drafted token is accepted, at any depth; and each wrong reading of
//! the module shows as wrong drafts.

use std::time::Instant;

use cachalot_ops::Device;

use crate::constructed::{Constructed, Law, Recycled, SEEDS, Structure, VOCAB_SIZE, construct};
use crate::witness::Reading;
use crate::{DEVICES, Outcome, Subject, drafting};

const STRUCTURES: [Structure; 2] = [Structure::V3, Structure::V32];
/// Across a cache block on the way, and far more than the six keys that the indexer keeps.
const NUM_PROMPT_TOKENS: usize = 50;
const NUM_NEW_TOKENS: usize = 100;

/// Any tokens: what follows them obeys the law.
fn prompt(seed: u64) -> Vec<u32> {
    cachalot_testkit::Random::new(1000 + seed).ids(NUM_PROMPT_TOKENS, VOCAB_SIZE)
}

fn lawful(law: &Law, prompt: &[u32]) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..NUM_NEW_TOKENS {
        ids.push(law.next(&ids));
    }
    ids.split_off(prompt.len())
}

fn generate(
    constructed: &Constructed,
    device: Device,
    reading: Reading,
    depth: usize,
    prompt: &[u32],
) -> (Outcome, u64) {
    let mut subject = Subject::new(&constructed.checkpoint.source(1), device, reading, drafting(depth));
    let outcome = subject.generate(&[prompt], NUM_NEW_TOKENS).swap_remove(0);
    (outcome, subject.handle.stats().num_steps)
}

/// Drafted and accepted tokens at a place of the drafts, over all seeds, of checkpoints that `edit` has changed. The tokens must
/// be right all the same.
fn accepted_at(
    place: usize,
    structure: Structure,
    recycled: Recycled,
    reading: Reading,
    edit: impl Fn(&mut Constructed),
) -> (u32, u32) {
    let mut sum = (0, 0);
    for seed in SEEDS {
        let (mut constructed, law) = construct(structure, recycled, seed, 0);
        edit(&mut constructed);
        let (outcome, _) = generate(&constructed, Device::Cpu, reading, place + 1, &prompt(seed));
        assert_eq!(outcome.ids, lawful(&law, &prompt(seed)), "{structure:?}, seed {seed}");
        sum.0 += outcome.report.num_drafted[place];
        sum.1 += outcome.report.num_accepted[place];
    }
    sum
}

/// Whether at least a quarter is refused; under the right reading nothing is.
fn is_clearly_lower(num_drafted: u32, num_accepted: u32) -> bool {
    4 * num_accepted < 3 * num_drafted
}

#[test]
fn under_the_published_semantics_every_draft_is_right() {
    for structure in STRUCTURES {
        for device in DEVICES {
            for seed in SEEDS {
                let (constructed, law) = construct(structure, Recycled::Normed, seed, 0);
                let expected = lawful(&law, &prompt(seed));
                let mut distinct = expected.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert!(distinct.len() >= VOCAB_SIZE / 2, "seed {seed} makes a text of {} tokens", distinct.len());
                for depth in 0..=4 {
                    let name = format!("{structure:?} on {device:?}, seed {seed}, depth {depth}");
                    let (outcome, num_steps) = generate(&constructed, device, Reading::Published, depth, &prompt(seed));
                    assert_eq!(outcome.ids, expected, "{name}");
                    assert_eq!(outcome.report.num_drafted, outcome.report.num_accepted, "{name}");
                    assert_eq!(outcome.report.num_drafted.len(), depth, "{name}");
                    // The prompt's step gives one token; every other one gives the draft and one more.
                    assert_eq!(num_steps, 1 + (NUM_NEW_TOKENS as u64 - 1).div_ceil(1 + depth as u64), "{name}");
                }
            }
        }
    }
}

#[test]
fn every_other_reading_shows() {
    type Edit = fn(&mut Constructed);
    // A wrong reading of the right checkpoint is the right reading of a checkpoint that is wrong in the same way.
    let edits: [(&str, Edit); 8] = [
        ("the hidden half of eh_proj first", |this| {
            let name = format!("{}.eh_proj.weight", this.mtp);
            let num_columns = this.checkpoint.tensors[&name].shape[1];
            let mut values = this.values(&name);
            values.chunks_exact_mut(num_columns).for_each(|row| row.rotate_left(num_columns / 2));
            this.set_values(&name, &values);
        }),
        ("the hidden state before the final norm", |this| {
            let name = format!("{}.hnorm.weight", this.mtp);
            let values = this.values(&name).into_iter().zip(this.values("model.norm.weight"));
            let values: Vec<f32> = values.map(|(hnorm, norm)| hnorm / norm).collect();
            this.set_values(&name, &values);
        }),
        ("enorm and hnorm exchanged", |this| {
            let [enorm, hnorm] = ["enorm", "hnorm"].map(|name| format!("{}.{name}.weight", this.mtp));
            let values = [&enorm, &hnorm].map(|name| this.values(name));
            this.set_values(&enorm, &values[1]);
            this.set_values(&hnorm, &values[0]);
        }),
        ("no shared_head.norm", |this| {
            let name = format!("{}.shared_head.norm.weight", this.mtp);
            let ones = vec![1.0; this.values(&name).len()];
            this.set_values(&name, &ones);
        }),
        ("the final norm in place of shared_head.norm", |this| {
            let norm = this.values("model.norm.weight");
            this.set_values(&format!("{}.shared_head.norm.weight", this.mtp), &norm);
        }),
        ("no attention", |this| {
            let name = format!("{}.self_attn.o_proj.weight", this.mtp);
            let zeros = vec![0.0; this.values(&name).len()];
            this.set_values(&name, &zeros);
        }),
        ("attention to the position itself", |this| {
            // Without the phase of its queries a head prefers the distance 0.
            let name = format!("{}.self_attn.q_b_proj.weight", this.mtp);
            let num_columns = this.checkpoint.tensors[&name].shape[1];
            let mut values = this.values(&name);
            for pair in values.chunks_exact_mut(2 * num_columns) {
                let size = pair[0].hypot(pair[num_columns]);
                (pair[0], pair[num_columns]) = (size, 0.0);
            }
            this.set_values(&name, &values);
        }),
        ("no hidden state", |this| {
            let name = format!("{}.hnorm.weight", this.mtp);
            let zeros = vec![0.0; this.values(&name).len()];
            this.set_values(&name, &zeros);
        }),
    ];
    let check = |name: &str, structure, (num_drafted, num_accepted): (u32, u32)| {
        println!("{structure:?}, {name}: {num_accepted} of {num_drafted}");
        assert!(num_drafted >= 100, "{structure:?}, {name}: {num_drafted} tokens drafted");
        assert!(
            is_clearly_lower(num_drafted, num_accepted),
            "{structure:?}, {name}: {num_accepted} of {num_drafted} accepted"
        );
    };
    for structure in STRUCTURES {
        for (name, edit) in edits {
            check(name, structure, accepted_at(0, structure, Recycled::Normed, Reading::Published, edit));
        }
        let found = accepted_at(0, structure, Recycled::Normed, Reading::Unshifted, |_| {});
        check("the token of the hidden state's own position", structure, found);
        // Made for recycling the state before the norm; the first place reads hidden states of the main model only.
        let found = accepted_at(1, structure, Recycled::Raw, Reading::Published, |_| {});
        check("the state before shared_head.norm recycled", structure, found);
    }
}

/// Chained drafts write keys made of recycled states, which are wrong here. The next draft begins with a token that is right
/// only if they were replaced by keys made of true states.
#[test]
fn keys_of_chained_drafts_are_replaced() {
    for structure in STRUCTURES {
        let (mut all_drafted, mut all_accepted) = (0, 0);
        for seed in SEEDS {
            let (constructed, law) = construct(structure, Recycled::Raw, seed, 0);
            let (outcome, _) = generate(&constructed, Device::Cpu, Reading::Published, 4, &prompt(seed));
            let (num_drafted, num_accepted) = (&outcome.report.num_drafted, &outcome.report.num_accepted);
            assert_eq!(outcome.ids, lawful(&law, &prompt(seed)), "{structure:?}, seed {seed}");
            assert_eq!(num_accepted[0], num_drafted[0], "{structure:?}, seed {seed}");
            all_drafted += num_drafted[1];
            all_accepted += num_accepted[1];
        }
        assert!(is_clearly_lower(all_drafted, all_accepted), "{structure:?}: {all_accepted} of {all_drafted}");
    }
}

/// What right drafts save at batch 1, with a main model of 16 layers. Times are printed only: they are those of a tiny model on a
/// machine that may have other work.
#[test]
fn right_drafts_save_time() {
    const NUM_ROUNDS: usize = 3;
    let (constructed, law) = construct(Structure::V32, Recycled::Normed, SEEDS[0], 15);
    let prompt = prompt(SEEDS[0]);
    let source = constructed.checkpoint.source(1);
    let mut subjects: Vec<_> =
        (0..=4).map(|depth| Subject::new(&source, Device::Cpu, Reading::Published, drafting(depth))).collect();
    let mut times = vec![Vec::new(); subjects.len()];
    for _ in 0..NUM_ROUNDS {
        for (subject, times) in subjects.iter_mut().zip(&mut times) {
            let start = Instant::now();
            let outcome = subject.generate(&[&prompt], NUM_NEW_TOKENS).swap_remove(0);
            times.push(start.elapsed());
            assert_eq!(outcome.ids, lawful(&law, &prompt));
        }
    }
    let mut steps_before = u64::MAX;
    for (depth, (subject, times)) in subjects.iter().zip(&mut times).enumerate() {
        times.sort();
        let num_steps = subject.handle.stats().num_steps / NUM_ROUNDS as u64;
        println!(
            "depth {depth}: {num_steps} steps, {:.1} ms for {NUM_NEW_TOKENS} tokens",
            times[NUM_ROUNDS / 2].as_secs_f64() * 1e3
        );
        assert!(num_steps < steps_before, "depth {depth} takes {num_steps} steps");
        steps_before = num_steps;
    }
}
