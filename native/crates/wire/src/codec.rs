//! Maps: their three shapes (FRAME-4), written in one call and read in two passes.

use std::fmt;
use std::io::Cursor;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, WireError};

/// Version in the first two bytes of each frame.
pub const VERSION: u16 = 1;
/// `u16 version` and `u32 length`.
pub const HEADER_LEN: usize = 6;
/// The id of an error that no request has: the connection is refused (FRAME-10).
pub const REFUSED: u64 = 0;
/// Maps and arrays inside each other; our own documents need six, and each costs the decoder stack.
const DEPTH_MAX: usize = 32;

/// A body without keys, `{}`: of requests that have no arguments and of replies that say only "done".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// Who a map is for: what the first pass finds. The body is skipped, not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Of requests and replies.
    pub id: Option<u64>,
    /// Of requests alone.
    pub op: Option<String>,
    /// Of events alone.
    pub event: Option<String>,
    /// Of replies that are errors.
    pub error: Option<WireError>,
}

impl Head {
    /// `(id, op)` of a request.
    pub fn request(&self) -> Option<(u64, &str)> {
        Some((self.id?, self.op.as_deref()?))
    }
}

/// First pass: decode everything but the body.
///
/// The map must have one of the three shapes; a request with a key beside `id`, `op` and `body` is refused (FRAME-6).
pub fn head(map: &[u8]) -> Result<Head, Error> {
    let raw: RawHead = decode(map)?;
    let shape = (
        raw.head.id,
        &raw.head.op,
        &raw.head.event,
        &raw.head.error,
        raw.has_body,
    );
    match shape {
        (Some(_), Some(_), None, None, true) if !raw.has_unknown => {}
        (Some(_), Some(_), None, None, true) => {
            return Err(bad("a request has only id, op and body"))
        }
        (Some(_), None, None, None, true) | (Some(_), None, None, Some(_), false) => {}
        (None, None, Some(_), None, true) => {}
        _ => return Err(bad("the map is no request, no reply and no event")),
    }
    Ok(raw.head)
}

/// Second pass: decode `{"body": T}`. Give request bodies `#[serde(deny_unknown_fields)]` (FRAME-6).
pub fn body<T: DeserializeOwned>(map: &[u8]) -> Result<T, Error> {
    #[derive(Deserialize)]
    #[serde(bound = "T: DeserializeOwned")]
    struct Envelope<T> {
        body: MapOnly<T>,
    }
    decode::<Envelope<T>>(map).map(|envelope| envelope.body.0)
}

/// Decode one msgpack map that fills `bytes` exactly; arrays in the place of the outermost map are refused.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut deserializer = rmp_serde::Deserializer::new(Cursor::new(bytes));
    deserializer.set_max_depth(DEPTH_MAX);
    let value = MapOnly::<T>::deserialize(&mut deserializer)
        .map_err(|error| Error::Decode(error.to_string()))?;
    if deserializer.position() != bytes.len() as u64 {
        return Err(bad("bytes follow the map"));
    }
    Ok(value.0)
}

/// Encode a value as a msgpack map with named keys.
///
/// Our own structs always encode; a type that cannot gives an empty map, which every receiver refuses.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap_or_else(|_| vec![0x80])
}

/// `{"id", "op", "body"}`.
pub fn request<T: Serialize + ?Sized>(id: u64, op: &str, body: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Request<'a, T: ?Sized> {
        id: u64,
        op: &'a str,
        body: &'a T,
    }
    encode(&Request { id, op, body })
}

/// `{"id", "body"}`.
pub fn reply<T: Serialize + ?Sized>(id: u64, body: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Reply<'a, T: ?Sized> {
        id: u64,
        body: &'a T,
    }
    encode(&Reply { id, body })
}

/// `{"id", "error"}`.
pub fn error(id: u64, error: &WireError) -> Vec<u8> {
    #[derive(Serialize)]
    struct Failure<'a> {
        id: u64,
        error: &'a WireError,
    }
    encode(&Failure { id, error })
}

/// `{"event", "body"}`.
pub fn event<T: Serialize + ?Sized>(event: &str, body: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Event<'a, T: ?Sized> {
        event: &'a str,
        body: &'a T,
    }
    encode(&Event { event, body })
}

fn bad(message: &str) -> Error {
    Error::Decode(message.to_owned())
}

/// What the first pass sees of a map.
struct RawHead {
    head: Head,
    has_body: bool,
    has_unknown: bool,
}

impl<'de> Deserialize<'de> for RawHead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawHead, D::Error> {
        struct HeadVisitor;
        impl<'de> Visitor<'de> for HeadVisitor {
            type Value = RawHead;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the map of a frame")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHead, A::Error> {
                let mut raw = RawHead {
                    head: Head::default(),
                    has_body: false,
                    has_unknown: false,
                };
                while let Some(key) = map.next_key::<String>()? {
                    let doubled = match key.as_str() {
                        "id" => raw.head.id.replace(map.next_value()?).is_some(),
                        "op" => raw.head.op.replace(map.next_value()?).is_some(),
                        "event" => raw.head.event.replace(map.next_value()?).is_some(),
                        "error" => raw.head.error.replace(map.next_value()?).is_some(),
                        "body" => {
                            map.next_value::<IgnoredAny>()?;
                            std::mem::replace(&mut raw.has_body, true)
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            raw.has_unknown = true;
                            false
                        }
                    };
                    if doubled {
                        return Err(serde::de::Error::custom(format_args!(
                            "{key} stands twice in the map"
                        )));
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(HeadVisitor)
    }
}

/// A value that was written as a map: rmp-serde alone would take an array for a struct.
struct MapOnly<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for MapOnly<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MapOnly<T>, D::Error> {
        struct MapVisitor<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for MapVisitor<T> {
            type Value = MapOnly<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MapOnly<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(MapOnly)
            }
        }
        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Put {
        name: String,
        replace: bool,
    }

    fn put() -> Put {
        Put {
            name: "a".into(),
            replace: true,
        }
    }

    #[test]
    fn request_in_two_passes() {
        let map = request(7, "put", &put());
        let head = head(&map).unwrap();
        assert_eq!(head.request(), Some((7, "put")));
        assert_eq!(body::<Put>(&map).unwrap(), put());
    }

    #[test]
    fn reply_error_event() {
        assert_eq!(head(&reply(1, &Empty {})).unwrap().id, Some(1));
        let failed = WireError::new("a.b", "c").with_hint("d");
        assert_eq!(head(&error(2, &failed)).unwrap().error, Some(failed));
        assert_eq!(
            head(&event("exit", &put())).unwrap().event.as_deref(),
            Some("exit")
        );
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let mut long = reply(1, &Empty {});
        long.push(0xc0);
        assert!(head(&long).is_err());
        assert!(head(&[]).is_err());
        assert!(head(&[0x80]).is_err());
        assert!(
            head(&[0x93, 1, 0xa1, b'x', 0x80]).is_err(),
            "an array is not a map"
        );
        // {"id": 1, "op": "x", "body": {}, "z": 1}
        let strange = b"\x84\xa2id\x01\xa2op\xa1x\xa4body\x80\xa1z\x01";
        assert!(head(strange).is_err());
        // {"id": 1, "id": 2, "body": {}}
        assert!(head(b"\x83\xa2id\x01\xa2id\x02\xa4body\x80").is_err());
        // A reply may have more keys than we know.
        assert!(head(b"\x83\xa2id\x01\xa4body\x80\xa1z\x01").is_ok());
    }

    #[test]
    fn bodies_are_strict() {
        assert!(
            body::<Put>(b"\x81\xa4body\x92\xa1a\xc3").is_err(),
            "an array is not a body"
        );
        assert!(
            body::<Empty>(b"\x81\xa4body\x81\xa1a\xc3").is_err(),
            "unknown key"
        );
    }

    #[test]
    fn every_cut_is_an_error_not_a_panic() {
        let map = request(u64::MAX, "register", &put());
        for end in 0..map.len() {
            assert!(head(&map[..end]).is_err());
        }
        for at in 0..map.len() {
            for value in 0..=255u8 {
                let mut broken = map.clone();
                broken[at] = value;
                let _ = head(&broken);
                let _ = body::<Put>(&broken);
            }
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let mut deep = b"\x82\xa2id\x01\xa4body".to_vec();
        deep.extend(std::iter::repeat_n(0x91, 100_000));
        deep.push(0xc0);
        assert!(head(&deep).is_err());
    }

    #[test]
    fn promised_lengths_are_not_believed() {
        // {"id": 1, "body": bin of 4 GiB - 1}: the bytes are not there.
        assert!(head(b"\x82\xa2id\x01\xa4body\xc6\xff\xff\xff\xff").is_err());
        // {"id": 1, "body": array of 4 Gi - 1}
        assert!(head(b"\x82\xa2id\x01\xa4body\xdd\xff\xff\xff\xff").is_err());
    }
}
