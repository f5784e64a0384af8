//! Frames of a peer: whatever it sends is a value or an error (FRAME-6), for the head and for each body of hold.

use wire::hold::{
    Ack, Children, Drop, Exit, ExitList, Exits, Get, Kill, List, Names, Put, Register,
    ServiceEvent, Services,
};

/// A map of each shape, with what strings, numbers and lists our own documents have.
fn corpus() -> Vec<Vec<u8>> {
    let names = || vec!["mnt/5a".to_owned(), "log/c1/exec-2/stdout".to_owned()];
    let put = Put {
        name: "mnt/5a".into(),
        replace: true,
    };
    let register = Register {
        name: "c1/exec-2".into(),
        generation: u64::MAX,
        pid: 4_194_304,
        keep: names(),
    };
    let kill = Kill {
        name: "c1".into(),
        signal: 9,
    };
    vec![
        wire::request(1, "put", &put),
        wire::request(7, "get", &Get { names: names() }),
        wire::request(u64::MAX, "register", &register),
        wire::request(3, "kill", &kill),
        wire::request(4, "ack", &Ack { seq: 1 << 40 }),
        wire::reply(1, &Names { names: names() }),
        wire::reply(1, &wire::Empty {}),
        wire::event("exit", &wire::Empty {}),
        wire::error(2, &wire::WireError::new("spawn.step", "no").with_hint("x")),
        // {"id": 1, "op": "x", "body": {}} with every length in its longest form.
        b"\xdf\0\0\0\x03\xdb\0\0\0\x02id\xcf\0\0\0\0\0\0\0\x01\xdb\0\0\0\x02op\xdb\0\0\0\x01x\xdb\0\0\0\x04body\xdf\0\0\0\0"
            .to_vec(),
        vec![0x91; 64],
    ]
}

#[test]
fn fuzz_frame_head() {
    fuzz::run("frame-head", &corpus(), |map| {
        if let Ok(head) = wire::head(map) {
            let kinds = [head.op.is_some(), head.event.is_some()];
            assert!(kinds != [true, true], "two shapes at once");
        }
    });
}

#[test]
fn fuzz_hold_bodies() {
    fuzz::run("hold-bodies", &corpus(), |map| {
        let _ = wire::body::<Put>(map);
        let _ = wire::body::<Get>(map);
        let _ = wire::body::<List>(map);
        let _ = wire::body::<Drop>(map);
        let _ = wire::body::<Register>(map);
        let _ = wire::body::<Kill>(map);
        let _ = wire::body::<Exits>(map);
        let _ = wire::body::<Ack>(map);
    });
}

#[test]
fn fuzz_hold_answers() {
    fuzz::run("hold-answers", &corpus(), |map| {
        let _ = wire::body::<Names>(map);
        let _ = wire::body::<Children>(map);
        let _ = wire::body::<ExitList>(map);
        let _ = wire::body::<Exit>(map);
        let _ = wire::body::<ServiceEvent>(map);
        let _ = wire::body::<Services>(map);
    });
}
