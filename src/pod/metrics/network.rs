//! The network counters of a pod.

use super::Samples;
use super::descriptors::{
    RECEIVE_BYTES, RECEIVE_DROPPED, RECEIVE_ERRORS, RECEIVE_PACKETS, TRANSMIT_BYTES, TRANSMIT_DROPPED,
    TRANSMIT_ERRORS, TRANSMIT_PACKETS,
};
use crate::pod::interfaces::Interface;

/// Adds the counters of each interface.
pub(super) fn add(samples: &mut Samples, interfaces: &[Interface]) {
    for Interface { name, received, sent } in interfaces {
        let own = [name.as_str()];
        samples.add(&RECEIVE_BYTES, own, received.bytes);
        samples.add(&RECEIVE_PACKETS, own, received.packets);
        samples.add(&RECEIVE_ERRORS, own, received.errors);
        samples.add(&RECEIVE_DROPPED, own, received.dropped);
        samples.add(&TRANSMIT_BYTES, own, sent.bytes);
        samples.add(&TRANSMIT_PACKETS, own, sent.packets);
        samples.add(&TRANSMIT_ERRORS, own, sent.errors);
        samples.add(&TRANSMIT_DROPPED, own, sent.dropped);
    }
}
