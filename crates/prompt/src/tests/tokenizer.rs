//! Text to ids, ids to text, in the toy vocabulary.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::tokenizer::Piece;
use crate::{Detokenizer, Tokenizer};
use Release::*;

fn toy() -> Arc<Tokenizer> {
    static TOY: LazyLock<Arc<Tokenizer>> =
        LazyLock::new(|| Arc::new(Tokenizer::from_bytes(&toy_tokenizer(V3_2)).unwrap()));
    Arc::clone(&TOY)
}

/// Text from the corners of Unicode, with the texts of control tokens among it.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        "[a-h l\n<>/｜]{0,8}",
        "[一-龥ぁ-ん]{0,6}",
        prop::sample::select(vec![
            "🐋",
            "👩‍👩‍👧‍👦",
            "🇨🇳",
            "e\u{301}",
            "<｜User｜>",
            "｜DSML｜",
            "</think>",
            "<｜end▁of▁sentence｜>",
            "hello"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

#[test]
fn control_tokens_count_where_they_are_asked_for() {
    let tokenizer = toy();
    let user = id(&tokenizer, "<｜User｜>");
    let hello = tokenizer.encode_plain("hello").unwrap();
    assert_eq!(tokenizer.encode("<｜User｜>hello").unwrap(), [vec![user], hello].concat());
    let plain = tokenizer.encode_plain("<｜User｜>").unwrap();
    assert!(plain.len() > 1 && !plain.contains(&user), "{plain:?}");
    assert!(tokenizer.encode("").unwrap().is_empty());
    // A token that is also a part of a longer one.
    let dsml = id(&tokenizer, "｜DSML｜");
    assert_eq!(tokenizer.split("<｜DSML｜x"), [Piece::Text("<"), Piece::Control(dsml), Piece::Text("x")]);
}

#[test]
fn ids_and_bytes() {
    let tokenizer = toy();
    let eos = id(&tokenizer, "<｜end▁of▁sentence｜>");
    assert_eq!(tokenizer.token_bytes(eos), "<｜end▁of▁sentence｜>".as_bytes());
    for byte in 0..=u8::MAX {
        let token = tokenizer.id_of(&alphabet(byte).to_string()).unwrap();
        assert_eq!(tokenizer.token_bytes(token), [byte]);
    }
    let joined = tokenizer.id_of("ĊĊ").unwrap();
    assert_eq!(tokenizer.token_bytes(joined), b"\n\n");
    assert_eq!(tokenizer.id_of("nothing"), None);

    let last = tokenizer.vocab_size() as u32 - 1;
    assert_eq!(tokenizer.token_bytes(last), "<｜tool▁sep｜>".as_bytes());
    assert_eq!(tokenizer.token_bytes(last + 1), b"");
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    assert_eq!(tokenizer.decode(&[eos, last + 1, joined]), "<｜end▁of▁sentence｜>\n\n");
}

#[test]
fn tokenizers_that_are_refused() {
    let json = String::from_utf8(toy_tokenizer(V3)).unwrap();
    let mut other: Value = serde_json::from_str(&json).unwrap();
    other["decoder"] = json!({"type": "Fuse"});
    let mut none: Value = serde_json::from_str(&json).unwrap();
    none["decoder"] = Value::Null;
    let not_byte_level = "tokenizer.json: the decoder is not ByteLevel; only byte-level BPE, as every DeepSeek release has \
                          it, is supported";
    for (json, message) in [
        (other.to_string(), not_byte_level),
        (none.to_string(), not_byte_level),
        ("{".to_owned(), "tokenizer.json: EOF while parsing an object at line 1 column 1"),
    ] {
        assert_eq!(Tokenizer::from_bytes(json.as_bytes()).err().expect("refused").to_string(), message);
    }
    let mut sequence: Value = serde_json::from_str(&json).unwrap();
    sequence["decoder"] = json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, sequence["decoder"]]});
    assert!(Tokenizer::from_bytes(sequence.to_string().as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(text in text()) {
        let tokenizer = toy();
        prop_assert_eq!(&tokenizer.decode(&tokenizer.encode(&text).unwrap()), &text);
        prop_assert_eq!(&tokenizer.decode(&tokenizer.encode_plain(&text).unwrap()), &text);
    }

    #[test]
    fn plain_text_has_no_control_tokens(text in text()) {
        let tokenizer = toy();
        let ids = tokenizer.encode_plain(&text).unwrap();
        // Merged tokens end where the added ones begin.
        let first_added = id(&tokenizer, "｜DSML｜");
        prop_assert!(ids.iter().all(|id| (3..first_added).contains(id)), "{:?}", ids);
    }

    /// The library's own encoding of a flat text is the reference.
    #[test]
    fn encoding_is_the_librarys(text in text()) {
        static LIBRARY: LazyLock<tokenizers::Tokenizer> =
            LazyLock::new(|| tokenizers::Tokenizer::from_bytes(toy_tokenizer(V3_2)).unwrap());
        let expected = LIBRARY.encode(text.as_str(), false).unwrap();
        prop_assert_eq!(toy().encode(&text).unwrap(), expected.get_ids());
    }

    /// Piece by piece or at once, bytes become the same text.
    #[test]
    fn detokenizing_is_lossy_decoding(bytes in byte_strings()) {
        let tokenizer = toy();
        let ids: Vec<u32> = bytes.iter().map(|&byte| tokenizer.id_of(&alphabet(byte).to_string()).unwrap()).collect();
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer));
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text += &detokenizer.flush();
        prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
        prop_assert_eq!(detokenizer.flush(), "");
    }
}

/// Bytes of every kind: arbitrary ones, and characters that were cut.
fn byte_strings() -> impl Strategy<Value = Vec<u8>> {
    let cut = (text(), any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(text, from, to)| {
        let bytes = text.into_bytes();
        let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
        bytes[from.min(to)..from.max(to)].to_vec()
    });
    let part = prop_oneof![prop::collection::vec(any::<u8>(), 0..8), cut];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

#[test]
fn half_a_character_is_never_emitted() {
    let tokenizer = toy();
    let token = |byte: u8| tokenizer.id_of(&alphabet(byte).to_string()).unwrap();
    // Bytes, and what each push returns; the last is what the flush returns.
    let cases: [(&[u8], &[&str]); 5] = [
        ("鲸".as_bytes(), &["", "", "鲸", ""]),
        ("🐋a".as_bytes(), &["", "", "", "🐋", "a", ""]),
        // A character that breaks off is replaced as soon as that is certain.
        (&[0xE9, 0xB2, b'a'], &["", "", "\u{FFFD}a", ""]),
        (&[0xE9, 0xB2], &["", "", "\u{FFFD}"]),
        (&[0xFF, 0xE9, 0xFF], &["\u{FFFD}", "", "\u{FFFD}\u{FFFD}", ""]),
    ];
    for (bytes, pieces) in cases {
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer));
        let mut found: Vec<_> = bytes.iter().map(|&byte| detokenizer.push(token(byte))).collect();
        found.push(detokenizer.flush());
        assert_eq!(found, pieces, "{bytes:?}");
    }
}
