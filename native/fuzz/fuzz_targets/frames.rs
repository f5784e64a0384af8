//! The map of a frame, and every body of hold: a value or an error (FRAME-6).
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::hold::{
    Ack, Children, Drop, Exit, ExitList, Exits, Get, Kill, List, Names, Put, Register,
    ServiceEvent, Services,
};

fuzz_target!(|map: &[u8]| {
    if let Ok(head) = wire::head(map) {
        assert!(
            head.op.is_none() || head.event.is_none(),
            "two shapes at once"
        );
    }
    let _ = (
        wire::body::<Put>(map),
        wire::body::<Get>(map),
        wire::body::<List>(map),
        wire::body::<Drop>(map),
    );
    let _ = (
        wire::body::<Register>(map),
        wire::body::<Kill>(map),
        wire::body::<Exits>(map),
        wire::body::<Ack>(map),
    );
    let _ = (
        wire::body::<Names>(map),
        wire::body::<Children>(map),
        wire::body::<ExitList>(map),
    );
    let _ = (
        wire::body::<Exit>(map),
        wire::body::<ServiceEvent>(map),
        wire::body::<Services>(map),
    );
});
