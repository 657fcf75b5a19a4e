//! Any bytes as a frame of an attached connection: noise is refused, and what is accepted means the same when it is sent on.
#![no_main]

use coracle::keeper::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(frame) = postcard::from_bytes::<Frame<'_>>(bytes) else { return };
    let sent = postcard::to_allocvec(&frame).expect("a frame can be written");
    let again: Frame<'_> = postcard::from_bytes(&sent).expect("a frame that was written can be read");
    assert_eq!(again, frame);
});
