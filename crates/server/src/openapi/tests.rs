//! The document against the routes and the wire types.
//!
//! A probe stands in for a JSON reader: a type that deserializes from it names its fields and variants, and those of all types
//! within, because serde's derived code tells them before it reads. Types that read JSON by hand look like a text to it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::de::value::{Error, StrDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::DOCUMENT;
use crate::responses::request::{Item, ResponsesFields};
use crate::routes;
use crate::tokenize::{DetokenizeRequest, TokenizeRequest};
use crate::wire::anthropic::MessagesFields;
use crate::wire::chat::ChatFields;
use crate::wire::common::CommonFields;
use crate::wire::completion::CompletionFields;

/// Names by place: `messages[].role`.
type Names = BTreeMap<String, BTreeSet<&'static str>>;

#[derive(Default)]
struct Seen {
    fields: RefCell<Names>,
    variants: RefCell<Names>,
}

impl Seen {
    fn record(names: &RefCell<Names>, path: &str, new: &'static [&'static str]) {
        names.borrow_mut().entry(path.to_owned()).or_default().extend(new);
    }
}

#[derive(Clone)]
struct Probe<'s> {
    path: String,
    seen: &'s Seen,
}

impl<'s> Probe<'s> {
    fn within(&self, name: &str) -> Self {
        let separator = if self.path.is_empty() || name == "[]" { "" } else { "." };
        Probe { path: format!("{}{separator}{name}", self.path), seen: self.seen }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_u64(0)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    /// A text that is right wherever any JSON may stand.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(if self.path.ends_with(".type") { "function" } else { "auto" })
    }

    /// Read by hand where a text stands for one of several things.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str("user")
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(false)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(0.0)
    }

    numbers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32
    deserialize_u64 }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(One(Some(self.within("[]"))))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Members { names: ["type"].iter(), value: None, parent: self })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        Seen::record(&self.seen.fields, &self.path, fields);
        visitor.visit_map(Members { names: fields.iter(), value: None, parent: self })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        Seen::record(&self.seen.variants, &self.path, variants);
        let first: StrDeserializer<'_, Error> = variants[0].into_deserializer();
        visitor.visit_enum(first)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i128 u128 f32 char string bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// An array of one.
struct One<'s>(Option<Probe<'s>>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|probe| seed.deserialize(probe)).transpose()
    }
}

/// An object with all of these members.
struct Members<'s> {
    names: std::slice::Iter<'static, &'static str>,
    value: Option<Probe<'s>>,
    parent: Probe<'s>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else { return Ok(None) };
        self.value = Some(self.parent.within(name));
        let name: StrDeserializer<'_, Error> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.value.take().expect("a value is asked for after its key"))
    }
}

/// Every name that `T` reads, put to those that are there.
fn probe<T: for<'de> Deserialize<'de>>(seen: &Seen) {
    T::deserialize(Probe { path: String::new(), seen })
        .unwrap_or_else(|error| panic!("the probe does not pass: {error}"));
}

fn document() -> Value {
    serde_json::from_str(DOCUMENT).unwrap()
}

/// A schema, or the alternatives that it offers, behind all references.
fn alternatives<'d>(document: &'d Value, schema: &'d Value, found: &mut Vec<&'d Value>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.strip_prefix('#').unwrap());
        alternatives(document, target.unwrap_or_else(|| panic!("there is no {reference}")), found);
    }
    for combined in ["oneOf", "allOf"] {
        for schema in schema[combined].as_array().into_iter().flatten() {
            alternatives(document, schema, found);
        }
    }
    found.push(schema);
}

/// The schemas of a place within a schema.
fn at<'d>(document: &'d Value, schema: &'d Value, path: &str) -> Vec<&'d Value> {
    let mut here = Vec::new();
    alternatives(document, schema, &mut here);
    for step in path.replace("[]", ".[]").split('.').filter(|step| !step.is_empty()) {
        let next: Vec<&Value> = here
            .iter()
            .filter_map(|schema| if step == "[]" { schema.get("items") } else { schema["properties"].get(step) })
            .collect();
        assert!(!next.is_empty(), "{path} is read and not in the document");
        here = Vec::new();
        next.into_iter().for_each(|schema| alternatives(document, schema, &mut here));
    }
    here
}

/// The schema has exactly the fields and variants that have been seen.
#[track_caller]
fn check(schema: &str, seen: &Seen) {
    let document = document();
    let root = &document["components"]["schemas"][schema];
    for (path, fields) in seen.fields.borrow().iter() {
        let schemas = at(&document, root, path);
        let documented: BTreeSet<&str> = schemas
            .iter()
            .filter_map(|schema| schema["properties"].as_object())
            .flat_map(|properties| properties.keys().map(String::as_str))
            .collect();
        assert_eq!(documented, *fields, "fields of {schema} at {path:?}: documented, and read");
    }
    for (path, variants) in seen.variants.borrow().iter() {
        let schemas = at(&document, root, path);
        let listed = schemas.iter().flat_map(|schema| schema["enum"].as_array().into_iter().flatten());
        let constants = schemas.iter().filter_map(|schema| schema.get("const"));
        let documented: BTreeSet<&str> = listed.chain(constants).filter_map(Value::as_str).collect();
        assert_eq!(documented, *variants, "variants of {schema} at {path:?}: documented, and read");
    }
}

#[test]
fn every_field_and_variant_is_in_the_document_and_no_other() {
    type Look = fn(&Seen);
    let cases: [(&str, &[Look]); 7] = [
        ("ChatRequest", &[probe::<ChatFields>, probe::<CommonFields>]),
        ("CompletionRequest", &[probe::<CompletionFields>, probe::<CommonFields>]),
        ("ResponsesRequest", &[probe::<ResponsesFields>, probe::<CommonFields>]),
        ("InputItem", &[probe::<Item>]),
        ("TokenizeRequest", &[probe::<TokenizeRequest>, probe::<ChatFields>, probe::<CommonFields>]),
        ("DetokenizeRequest", &[probe::<DetokenizeRequest>]),
        ("MessagesRequest", &[probe::<MessagesFields>]),
    ];
    for (schema, probes) in cases {
        let seen = Seen::default();
        probes.iter().for_each(|probe| probe(&seen));
        check(schema, &seen);
    }
}

/// The probe is no good if it finds nothing.
#[test]
fn the_probe_looks_into_everything() {
    let seen = Seen::default();
    probe::<ChatFields>(&seen);
    let fields = seen.fields.borrow();
    for path in
        ["", "messages[]", "messages[].tool_calls[].function", "thinking", "tools[]", "response_format.json_schema"]
    {
        assert!(fields.get(path).is_some_and(|fields| !fields.is_empty()), "{path:?} is not in {fields:?}");
    }
    let variants = seen.variants.borrow();
    assert!(variants["thinking.reasoning_effort"].contains("xhigh"), "{variants:?}");
}

#[test]
fn every_route_is_in_the_document_and_no_other() {
    let served: BTreeSet<(String, String)> = routes::api()
        .into_iter()
        .chain(routes::open())
        .map(|route| (route.path.replace("{*", "{"), route.method.as_str().to_lowercase()))
        .collect();
    let document = document();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let item = match item["$ref"].as_str() {
            Some(reference) => {
                let pointer = reference.strip_prefix('#').unwrap().replace("%7B", "{").replace("%7D", "}");
                document.pointer(&pointer).unwrap_or_else(|| panic!("there is no {reference}"))
            }
            None => item,
        };
        for method in item.as_object().unwrap().keys() {
            documented.insert((path.clone(), method.clone()));
        }
    }
    assert_eq!(documented, served);
}

#[test]
fn routes_that_need_no_key_say_so() {
    let document = document();
    for route in routes::open() {
        let operation = &document["paths"][&route.path][route.method.as_str().to_lowercase()];
        assert_eq!(operation["security"], serde_json::json!([]), "{}", route.path);
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}
