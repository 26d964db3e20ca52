//! The layout against the published totals, to the element.

use cachalot_weights::{Component, Config, Stage, TensorKind, TensorSpec};
use serde_json::Value;

use crate::published;

fn layout(config: &Value) -> Vec<TensorSpec> {
    Config::from_json(config.to_string().as_bytes()).unwrap().layout()
}

fn elements<'a>(specs: impl IntoIterator<Item = &'a TensorSpec>) -> usize {
    specs.into_iter().map(|spec| spec.shape.num_elements()).sum()
}

/// Elements of the scales of a quantised weight in blocks of 128×128.
fn scales(spec: &TensorSpec) -> usize {
    match spec.kind {
        TensorKind::Linear => spec.shape.dims().iter().map(|dim| dim.div_ceil(128)).product(),
        _ => 0,
    }
}

#[test]
fn v3_has_the_published_elements_of_each_dtype() {
    let layout = layout(&published::v3());
    let of = |kinds: &[TensorKind]| elements(layout.iter().filter(|spec| kinds.contains(&spec.kind)));
    let num_scales: usize = layout.iter().map(scales).sum();
    assert_eq!(of(&[TensorKind::Table, TensorKind::Norm]), 3_918_786_560, "BF16");
    assert_eq!(of(&[TensorKind::Linear]), 680_571_043_840, "F8_E4M3");
    assert_eq!(num_scales + of(&[TensorKind::CorrectionBias]), 41_555_600, "F32");
    assert_eq!(elements(&layout) + num_scales, 684_531_386_000);
    let num_quantised = layout.iter().filter(|spec| spec.kind == TensorKind::Linear).count();
    assert_eq!(layout.len() + num_quantised, 91_991, "tensors");
    let main = layout.iter().filter(|spec| spec.stage == Stage::Main);
    assert_eq!(elements(main), 671_026_419_200, "without layer 61");
}

#[test]
fn v32_has_the_published_elements_in_total() {
    let layout = layout(&published::v32());
    let num_scales: usize = layout.iter().map(scales).sum();
    assert_eq!(num_scales, 41_591_584);
    assert_eq!(elements(&layout) + num_scales, 685_396_921_376);
    let num_quantised = layout.iter().filter(|spec| spec.kind == TensorKind::Linear).count();
    assert_eq!(layout.len() + num_quantised, 92_425, "tensors");
}

#[test]
fn qwen3_has_the_published_elements_in_total() {
    assert_eq!(elements(&layout(&published::qwen3())), 8_190_735_360);
}

#[test]
fn components_of_v32_add_up() {
    let layout = layout(&published::v32());
    let check = |component: Component, expected: usize| {
        let specs = layout.iter().filter(|spec| spec.stage == Stage::Main && spec.component == component);
        assert_eq!(elements(specs), expected, "{component:?}");
    };
    check(Component::Embedding, 129_280 * 7168);
    check(Component::Head, 129_280 * 7168);
    check(Component::Attention, 187_105_280 * 61);
    check(Component::Indexer, 61 * (8192 * 1536 + 128 * 7168 + 2 * 128 + 64 * 7168));
    check(Component::DenseMlp, 3 * 3 * 18_432 * 7168);
    check(Component::RoutedExperts, 44_040_192 * 256 * 58);
    check(Component::SharedExperts, 44_040_192 * 58);
    check(Component::Gate, 58 * (256 * 7168 + 256));
    check(Component::Norms, 7168 + 61 * (2 * 7168 + 1536 + 512));
    check(Component::MtpProjection, 0);
}
