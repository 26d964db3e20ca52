//! The engine's tokens, drafts and verdicts against those of HF transformers.

use cachalot_engine::{EngineConfig, KvCacheSize, Report};
use cachalot_ops::Device;
use cachalot_testkit::drafts::{self, Drafts, DraftsPrompt};
use cachalot_testkit::golden::folder;
use cachalot_weights::Source;

use crate::constructed::CONSTRUCTED;
use crate::witness::{Draft, Reading};
use crate::{DEVICES, Subject, drafting};

/// What a generation with drafts of a length does, by the file: what it drafts, and how much of it is verified and right.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    drafts: Vec<Draft>,
    num_drafted: Vec<u32>,
    num_accepted: Vec<u32>,
}

fn expected(prompt: &DraftsPrompt, depth: usize) -> Expected {
    let num_new = prompt.generated.len();
    let mut expected = Expected { num_drafted: vec![0; depth], num_accepted: vec![0; depth], ..Expected::default() };
    let mut num_generated = 1;
    while num_generated < num_new {
        // The last token of all need not be drafted.
        let len = depth.min(num_new - num_generated - 1);
        let drafted = &prompt.drafts[num_generated - 1][..len];
        let position = (prompt.ids.len() + num_generated - 2) as u32;
        expected.drafts.extend((0..len).map(|place| Draft { position, place, id: drafted[place] }));
        let num_right = drafted.iter().zip(&prompt.generated[num_generated..]).take_while(|(a, b)| a == b).count();
        expected.num_drafted[..len].iter_mut().for_each(|num| *num += 1);
        expected.num_accepted[..num_right].iter_mut().for_each(|num| *num += 1);
        num_generated += num_right + 1;
    }
    expected
}

/// Generates one prompt, and compares everything; the report is returned for what else it should say.
fn compare(subject: &mut Subject, prompt: &DraftsPrompt, depth: usize, name: &str) -> Report {
    let outcome = subject.generate(&[&prompt.ids], prompt.generated.len()).swap_remove(0);
    assert_eq!(outcome.ids, prompt.generated, "{name}: tokens");
    let report = outcome.report;
    let found = Expected {
        drafts: subject.take_drafts(),
        num_drafted: report.num_drafted.clone(),
        num_accepted: report.num_accepted.clone(),
    };
    assert_eq!(found, expected(prompt, depth), "{name}: drafts");
    report
}

fn for_each_case(check: impl Fn(&str, Drafts, Source)) {
    for case in drafts::CASES {
        check(case, Drafts::read(case).unwrap_or_else(|error| panic!("{error}")), Source::Folder(folder(case)));
    }
}

/// Drafts of three tokens begin with those of one, so the slow reference takes the long ones only.
fn depths(device: Device) -> &'static [usize] {
    if device == Device::Reference { &[3] } else { &[1, 3] }
}

fn check_whole_prompts(device: Device) {
    for_each_case(|case, drafts, source| {
        for &depth in depths(device) {
            let mut subject = Subject::new(&source, device, Reading::Published, drafting(depth));
            for prompt in &drafts.prompts {
                let name = format!("{case} on {device:?}, depth {depth}, {} tokens", prompt.ids.len());
                compare(&mut subject, prompt, depth, &name);
            }
        }
    });
}

#[test]
fn reference_drafts_what_transformers_drafts() {
    check_whole_prompts(Device::Reference);
}

#[test]
fn cpu_drafts_what_transformers_drafts() {
    check_whole_prompts(Device::Cpu);
}

/// The comparison can fail: drafts of the module read one token late are not those of the file.
#[test]
fn transformers_drafts_nothing_of_another_reading() {
    for_each_case(|case, drafts, source| {
        let mut subject = Subject::new(&source, Device::Cpu, Reading::Unshifted, drafting(1));
        for prompt in &drafts.prompts {
            let outcome = subject.generate(&[&prompt.ids], prompt.generated.len()).swap_remove(0);
            assert_eq!(outcome.ids, prompt.generated, "{case}, {} tokens", prompt.ids.len());
            let (found, expected) = (subject.take_drafts(), expected(prompt, 1).drafts);
            let num_same = found.iter().filter(|draft| expected.contains(draft)).count();
            assert!(num_same <= 2, "{case}, {} tokens: {num_same} drafts are the same", prompt.ids.len());
        }
    });
}

/// The file's own steps, which for V3 are those of `generate(use_mtp=True)`, are what its drafts and tokens imply.
#[test]
fn transformers_own_steps_are_the_same() {
    let of_cases = drafts::CASES.map(|case| Drafts::read(case).unwrap_or_else(|error| panic!("{error}")));
    let of_constructed =
        CONSTRUCTED.map(|name| Drafts::read_constructed(name).unwrap_or_else(|error| panic!("{error}")));
    for Drafts { case, prompts, .. } in of_cases.iter().chain(&of_constructed) {
        for prompt in prompts {
            let steps = prompt.steps.iter();
            let drafts = steps.clone().map(|step| {
                let position = (prompt.ids.len() + step.num_generated - 2) as u32;
                Draft { position, place: 0, id: step.draft_id }
            });
            // transformers drafts the last token of all as well.
            let is_last = |draft: &Draft| draft.position as usize + 3 > prompt.ids.len() + prompt.generated.len() - 1;
            let drafts: Vec<Draft> = drafts.filter(|draft| !is_last(draft)).collect();
            let expected = expected(prompt, 1);
            assert_eq!(drafts, expected.drafts, "{case}, {} tokens", prompt.ids.len());
            let num_accepted = steps.filter(|step| step.accepted).count();
            assert_eq!(num_accepted as u32, expected.num_accepted[0], "{case}, {} tokens", prompt.ids.len());
        }
    }
}

#[test]
fn drafts_do_not_depend_on_how_the_prompt_was_computed() {
    const DEPTH: usize = 3;
    for_each_case(|case, drafts, source| {
        let device = Device::Cpu;
        let chunked = EngineConfig { max_num_batched_tokens: 37, ..drafting(DEPTH) };
        let mut subject = Subject::new(&source, device, Reading::Published, chunked);
        for prompt in &drafts.prompts {
            compare(&mut subject, prompt, DEPTH, &format!("{case}, chunks of 37, {} tokens", prompt.ids.len()));
        }

        let shared = EngineConfig { prefix_cache: true, ..drafting(DEPTH) };
        let mut subject = Subject::new(&source, device, Reading::Published, shared);
        for prompt in &drafts.prompts {
            let num_tokens = prompt.ids.len();
            let first = compare(&mut subject, prompt, DEPTH, &format!("{case}, {num_tokens} tokens"));
            assert_eq!(first.num_cached_tokens, 0, "{case}, {num_tokens} tokens");
            let second = compare(&mut subject, prompt, DEPTH, &format!("{case}, {num_tokens} tokens again"));
            assert_eq!(second.num_cached_tokens > 0, num_tokens > 65, "{case}, {num_tokens} tokens");
        }
    });
}

/// The long prompt and its continuation take 3 blocks of 64 tokens, the other one 2; the fifth block is lacking.
#[test]
fn drafts_survive_a_preemption() {
    const DEPTH: usize = 3;
    for_each_case(|case, drafts, source| {
        for prefix_cache in [false, true] {
            let config = EngineConfig { kv_cache: KvCacheSize::Blocks(4), prefix_cache, ..drafting(DEPTH) };
            let mut subject = Subject::new(&source, Device::Cpu, Reading::Published, config);
            let [_, middle, long] = &drafts.prompts[..] else { panic!("{case}: three prompts") };
            let outcomes = subject.generate(&[&long.ids, &middle.ids], long.generated.len());
            assert_eq!(outcomes[1].report.num_preemptions, 1, "{case}, prefix cache: {prefix_cache}");
            let found = subject.take_drafts();
            for (prompt, outcome) in [long, middle].into_iter().zip(&outcomes) {
                let num_tokens = prompt.ids.len();
                let name = format!("{case}, prefix cache: {prefix_cache}, {num_tokens} tokens");
                assert_eq!(outcome.ids, prompt.generated, "{name}: tokens");
                let positions = num_tokens as u32 - 1..(num_tokens + prompt.generated.len()) as u32;
                let found = found.iter().filter(|draft| positions.contains(&draft.position));
                // Drafts are shorter where blocks are short, and one is made anew after the preemption.
                for draft in found.clone() {
                    let known = draft.position as usize + 1 - num_tokens;
                    assert_eq!(draft.id, prompt.drafts[known][draft.place], "{name}: {draft:?}");
                }
                let num_after_the_block = found.filter(|draft| draft.position >= 66 && draft.place > 0).count();
                assert!(num_after_the_block > 20, "{name}: {num_after_the_block} drafts");
            }
        }
    });
}

/// The checkpoints that are right by construction, as transformers reads them: it accepts all drafts of the first, and some of the
/// second, whose module lacks its attention.
#[test]
fn transformers_accepts_what_the_engine_accepts() {
    for (index, name) in CONSTRUCTED.into_iter().enumerate() {
        let drafts = Drafts::read_constructed(name).unwrap_or_else(|error| panic!("{error}"));
        let source = crate::constructed::by_name(name).source(1);
        for device in DEVICES {
            for &depth in depths(device) {
                let mut subject = Subject::new(&source, device, Reading::Published, drafting(depth));
                for prompt in &drafts.prompts {
                    let name = format!("{name} on {device:?}, depth {depth}, {} tokens", prompt.ids.len());
                    let report = compare(&mut subject, prompt, depth, &name);
                    let (num_drafted, num_accepted) = (report.num_drafted[0], report.num_accepted[0]);
                    let is_right = index % 2 == 0;
                    assert_eq!(num_accepted == num_drafted, is_right, "{name}: {num_accepted} of {num_drafted}");
                    assert!(num_accepted > 0, "{name}");
                }
            }
        }
    }
}

/// Writes the checkpoints that `scripts/golden/make.py --constructed` reads.
#[test]
#[ignore = "writes files for scripts/golden"]
fn write_constructed_checkpoints() {
    for name in CONSTRUCTED {
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("constructed").join(name);
        std::fs::create_dir_all(&folder).expect("a writable folder");
        crate::constructed::by_name(name).write(&folder, 1);
        println!("{}", folder.display());
    }
}
