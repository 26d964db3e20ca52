//! JSON schemas for the tests of constrained output: a list by hand that goes through the keywords one by one, and random ones
//! that combine them.

use serde_json::{Map, Value, json};

/// How many random schemas there are.
const NUM_RANDOM: u64 = 420;

/// All of them, always the same.
pub(crate) fn all() -> Vec<Value> {
    let random =
        (0..NUM_RANDOM).map(|seed| Random { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234 }.document());
    by_hand().into_iter().chain(random).collect()
}

/// One keyword after the other, in the order of the specification's chapters.
fn by_hand() -> Vec<Value> {
    let object = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let mut schemas = vec![
        // type
        json!({"type": "object"}),
        json!({"type": "array"}),
        json!({"type": "string"}),
        json!({"type": "number"}),
        json!({"type": "integer"}),
        json!({"type": "boolean"}),
        json!({"type": "null"}),
        json!({"type": ["string", "null"]}),
        json!({"type": ["integer", "boolean", "array"]}),
        json!({"type": ["object", "null"], "properties": {"a": {"type": "integer"}}}),
        json!({}),
        json!({"type": "object", "title": "t", "description": "d", "default": {}, "examples": [1], "$comment": "c"}),
        // enum, const
        json!({"enum": ["red", "green", "blue"]}),
        json!({"enum": [1, "two", null, true, [3], {"four": 4}]}),
        json!({"enum": ["with \"quotes\"", "back\\slash", "new\nline", "tab\t", "中文", "🐳", ""]}),
        json!({"enum": [0, -1, 100]}),
        json!({"enum": [[], {}, [[]]]}),
        json!({"type": "string", "enum": ["a", "ab", "abc"]}),
        json!({"const": "fixed"}),
        json!({"const": 42}),
        json!({"const": null}),
        json!({"const": false}),
        json!({"const": {"a": [1, 2, {"b": null}]}}),
        json!({"const": "a\u{1f}b"}),
        // anyOf, oneOf, allOf
        json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        json!({"anyOf": [{"const": 1}, {"const": "one"}, {"type": "null"}]}),
        json!({"anyOf": [object(json!({"a": {"type": "integer"}}), json!(["a"])), object(json!({"b": {"type": "string"}}), json!(["b"]))]}),
        json!({"anyOf": [{"anyOf": [{"type": "null"}, {"type": "boolean"}]}, {"type": "array", "items": {"type": "null"}}]}),
        json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        json!({"oneOf": [object(json!({"kind": {"const": "a"}, "x": {"type": "integer"}}), json!(["kind", "x"])),
                         object(json!({"kind": {"const": "b"}, "y": {"type": "string"}}), json!(["kind", "y"]))]}),
        json!({"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 8}]}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                         {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}]}),
        json!({"type": "string", "anyOf": [{"maxLength": 2}, {"pattern": "^x+$"}]}),
        // $ref, $defs
        json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "minimum": 0}}}),
        json!({"$ref": "#/definitions/n", "definitions": {"n": {"enum": ["x"]}}}),
        json!({"type": "object", "properties": {"l": {"$ref": "#/$defs/p"}, "r": {"$ref": "#/$defs/p"}}, "required": ["l", "r"],
               "$defs": {"p": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "integer"}], "items": false, "minItems": 2}}}),
        json!({"$ref": "#/$defs/list", "$defs": {"list": {"anyOf": [{"type": "null"}, object(json!({"head": {"type": "integer"}, "tail": {"$ref": "#/$defs/list"}}), json!(["head", "tail"]))]}}}),
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": object(json!({"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}), json!(["value"]))}}),
        json!({"$ref": "#/$defs/expr", "$defs": {"expr": {"anyOf": [{"type": "number"}, object(json!({"op": {"enum": ["+", "-"]}, "args": {"type": "array", "items": {"$ref": "#/$defs/expr"}, "minItems": 1, "maxItems": 2}}), json!(["op", "args"]))]}}}),
        json!({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"], "additionalProperties": false}),
        json!({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}}),
        // properties, required, additionalProperties, patternProperties
        object(json!({"a": {"type": "integer"}}), json!(["a"])),
        object(json!({"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "boolean"}}), json!(["b"])),
        object(json!({"a": {"type": "integer"}, "b": {"type": "string"}}), json!([])),
        object(json!({}), json!([])),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a", "z"]}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "ab": {"type": "null"}}, "additionalProperties": {"type": "boolean"}}),
        json!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}),
        json!({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}),
        json!({"type": "object", "patternProperties": {"^n": {"type": "integer"}}, "additionalProperties": false}),
        json!({"type": "object", "patternProperties": {"^[0-9]+$": {"type": "null"}, "^[a-z]+$": {"type": "boolean"}}, "additionalProperties": false}),
        json!({"type": "object", "properties": {"with space": {"type": "null"}, "with \"quote\"": {"type": "null"}, "a/b~c": {"type": "null"}, "ключ": {"type": "null"}}, "required": ["with space", "with \"quote\"", "a/b~c", "ключ"], "additionalProperties": false}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "minProperties": 1, "additionalProperties": false}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "maxProperties": 1, "additionalProperties": false}),
        // items, prefixItems, minItems, maxItems
        json!({"type": "array", "items": {"type": "integer"}}),
        json!({"type": "array", "items": {"type": "boolean"}, "minItems": 3}),
        json!({"type": "array", "items": {"type": "null"}, "maxItems": 2}),
        json!({"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 4}),
        json!({"type": "array", "maxItems": 0}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": false}),
        json!({"type": "array", "prefixItems": [{"const": "head"}], "items": {"type": "integer"}, "minItems": 2, "maxItems": 5}),
        json!({"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "minItems": 1}}),
        json!({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}, "minItems": 1}),
        // minLength, maxLength, pattern
        json!({"type": "string", "minLength": 5}),
        json!({"type": "string", "maxLength": 4}),
        json!({"type": "string", "minLength": 3, "maxLength": 3}),
        json!({"type": "string", "minLength": 0, "maxLength": 0}),
        json!({"type": "string", "pattern": "^[a-z]+$"}),
        json!({"type": "string", "pattern": "^a|[a-z]$"}),
        json!({"type": "string", "pattern": "[a-z]"}),
        json!({"type": "string", "pattern": "^\\d{3}-\\d{4}$"}),
        json!({"type": "string", "pattern": "^\\w+\\s\\w+$"}),
        json!({"type": "string", "pattern": "^(foo|bar)(, (foo|bar))*$"}),
        json!({"type": "string", "pattern": "^[^\"\\\\]{2,5}$"}),
        json!({"type": "string", "pattern": "^/[a-z/]*$"}),
        json!({"type": "string", "pattern": "^[一-龥]{1,3}$"}),
        json!({"type": "string", "pattern": "^a*$", "minLength": 2, "maxLength": 6}),
        // minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf
        json!({"type": "integer", "minimum": 10}),
        json!({"type": "integer", "maximum": -3}),
        json!({"type": "integer", "minimum": -17, "maximum": 23}),
        json!({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}),
        json!({"type": "integer", "multipleOf": 7}),
        json!({"type": "integer", "multipleOf": 5, "minimum": 12, "maximum": 99}),
        json!({"type": "number", "minimum": 0}),
        json!({"type": "number", "maximum": 0}),
        json!({"type": "number", "minimum": -1.5, "maximum": 2.25}),
        json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        json!({"type": "number", "exclusiveMinimum": -0.1}),
        json!({"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 9}),
        json!({"type": "number", "multipleOf": 0.01}),
        json!({"type": ["integer", "string"], "minimum": 3, "maxLength": 2}),
    ];
    // format
    let formats = ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"];
    schemas.extend(formats.map(|format| json!({"type": "string", "format": format})));
    schemas.extend(formats.map(|format| object(json!({"at": {"type": "string", "format": format}}), json!(["at"]))));
    schemas.push(json!({"type": "string", "format": "date", "pattern": "^2"}));
    // A deep one, a wide one, and what a client sends for a person.
    schemas.push((0..12).fold(json!({"type": "integer"}), |inner, _| object(json!({"a": inner}), json!(["a"]))));
    let wide: Map<String, Value> = (0..40).map(|i| (format!("key_{i}"), json!({"type": "boolean"}))).collect();
    schemas.push(object(Value::Object(wide), json!(["key_3", "key_39"])));
    schemas.push(object(
        json!({
            "name": {"type": "string", "minLength": 1, "maxLength": 30},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "email": {"type": "string", "format": "email"},
            "address": object(json!({"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}), json!(["street", "zip"])),
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
            "status": {"enum": ["active", "gone"]},
        }),
        json!(["name", "age", "email", "address", "tags", "status"]),
    ));
    schemas
}

/// Makes schemas that can be satisfied, from numbers that are only as random as they must be.
struct Random {
    state: u64,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// A schema with its definitions.
    fn document(&mut self) -> Value {
        let mut schema = match self.below(4) {
            0 => self.array(3),
            1 => self.schema(3),
            _ => self.object(3),
        };
        if schema.to_string().contains("#/$defs/") {
            // Without references, so that it stops.
            let node = self.object(0);
            let leaf = self.schema(0);
            // A recursion that can stop at every step.
            let tree = json!({"type": "object", "properties": {"leaf": leaf, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}},
                              "required": ["leaf", "next"], "additionalProperties": false});
            let mut definitions = Map::new();
            definitions.insert("tree".to_owned(), tree);
            definitions.insert("node".to_owned(), node);
            schema["$defs"] = Value::Object(definitions);
        }
        schema
    }

    fn schema(&mut self, depth: u64) -> Value {
        if depth == 0 {
            return self.scalar();
        }
        match self.below(10) {
            0..3 => self.scalar(),
            3..5 => self.object(depth - 1),
            5..7 => self.array(depth - 1),
            7 => {
                let count = 2 + self.below(2);
                let options: Vec<Value> = (0..count).map(|_| self.schema(depth - 1)).collect();
                json!({"anyOf": options})
            }
            8 => json!({"$ref": if self.one_in(2) { "#/$defs/tree" } else { "#/$defs/node" }}),
            _ => {
                let types = ["null", "boolean", "integer", "string"];
                let first = self.below(4) as usize;
                json!({"type": [types[first], types[(first + 1) % 4]]})
            }
        }
    }

    fn scalar(&mut self) -> Value {
        match self.below(9) {
            0 => json!({"type": "boolean"}),
            1 => json!({"type": "null"}),
            2 => {
                let minimum = self.below(2000) as i64 - 1000;
                let maximum = minimum + 20 + self.below(5000) as i64;
                match self.below(4) {
                    0 => json!({"type": "integer", "minimum": minimum, "maximum": maximum}),
                    1 => json!({"type": "integer", "exclusiveMinimum": minimum, "maximum": maximum}),
                    2 => {
                        json!({"type": "integer", "minimum": minimum, "maximum": maximum, "multipleOf": 1 + self.below(9)})
                    }
                    _ => json!({"type": "integer"}),
                }
            }
            3 => {
                let minimum = (self.below(4000) as f64 - 2000.0) / 8.0;
                let maximum = minimum + 1.0 + self.below(100) as f64 / 4.0;
                match self.below(4) {
                    0 => json!({"type": "number", "minimum": minimum, "maximum": maximum}),
                    1 => json!({"type": "number", "exclusiveMinimum": minimum}),
                    2 => json!({"type": "number", "exclusiveMaximum": maximum}),
                    _ => json!({"type": "number"}),
                }
            }
            4 => {
                let minimum = self.below(5);
                json!({"type": "string", "minLength": minimum, "maxLength": minimum + self.below(8)})
            }
            5 => {
                let patterns = [
                    "^[a-c]{2,6}$",
                    "^(ja|nein)$",
                    "^[A-Z][0-9]{1,3}$",
                    "[a-z0-9]$",
                    "^v\\d+\\.\\d+$",
                    "^#[0-9a-f]{6}$",
                    "^.{1,4}$",
                ];
                json!({"type": "string", "pattern": self.pick(&patterns)})
            }
            6 => {
                json!({"type": "string", "format": self.pick(&["date", "time", "date-time", "ipv4", "uuid", "hostname", "email", "ipv6"])})
            }
            7 => {
                let values = [json!("a"), json!("b c"), json!(1), json!(null), json!(true), json!("é"), json!(-7)];
                let first = self.below(7) as usize;
                let count = 1 + self.below(4) as usize;
                let chosen: Vec<&Value> = (0..count).map(|i| &values[(first + i) % 7]).collect();
                if count == 1 { json!({"const": chosen[0]}) } else { json!({"enum": chosen}) }
            }
            _ => json!({"type": "string"}),
        }
    }

    fn object(&mut self, depth: u64) -> Value {
        let names = ["id", "name", "value", "items", "x", "kind", "note", "is_done"];
        let count = self.below(5) as usize;
        let first = self.below(8) as usize;
        let mut properties = Map::new();
        let mut required = Vec::new();
        for place in 0..count {
            let name = names[(first + place) % 8];
            properties.insert(name.to_owned(), self.schema(depth));
            if !self.one_in(3) {
                required.push(name);
            }
        }
        let mut schema = json!({"type": "object", "properties": properties});
        if !required.is_empty() || self.one_in(2) {
            schema["required"] = json!(required);
        }
        match self.below(4) {
            0 => {}
            1 => schema["additionalProperties"] = self.scalar(),
            _ => schema["additionalProperties"] = json!(false),
        }
        schema
    }

    fn array(&mut self, depth: u64) -> Value {
        let mut schema = json!({"type": "array"});
        if self.one_in(4) {
            let count = 1 + self.below(3);
            let prefix: Vec<Value> = (0..count).map(|_| self.schema(depth)).collect();
            schema["prefixItems"] = json!(prefix);
            schema["items"] = if self.one_in(2) { json!(false) } else { self.scalar() };
            if self.one_in(2) {
                schema["minItems"] = json!(count);
            }
        } else {
            schema["items"] = self.schema(depth);
            let minimum = self.below(3);
            if self.one_in(2) {
                schema["minItems"] = json!(minimum);
            }
            if self.one_in(2) {
                schema["maxItems"] = json!(minimum + 1 + self.below(3));
            }
        }
        schema
    }
}
