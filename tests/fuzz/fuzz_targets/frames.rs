//! Any bytes as a frame of an attached connection, with the head that names the version and without: noise is refused, and
//! what is accepted means the same when it is sent on.
#![no_main]

use coracle::keeper::Frame;
use coracle::record::format::KEEPER_PROTOCOL;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let framed = [&KEEPER_PROTOCOL.head(), bytes].concat();
    for bytes in [bytes, &framed] {
        let Ok(frame) = KEEPER_PROTOCOL.decode::<Frame<'_>>(bytes) else { continue };
        let sent = KEEPER_PROTOCOL.encode(&frame).expect("a frame can be written");
        assert_eq!(KEEPER_PROTOCOL.decode(&sent), Ok(frame));
    }
});
