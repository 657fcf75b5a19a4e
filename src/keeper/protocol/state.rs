//! The messages by which a keeper leaves its state to its standby and to a successor: which containers there are, and their
//! descriptors. The rest is in their records on disk.

use serde::{Deserialize, Serialize};

/// What the standby and a successor are sent.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::keeper) enum StateMessage {
    /// These are a container's descriptors, as many as the flags say.
    Holds(String, Holds),
    /// The container is no more.
    Gone(String),
    /// To a successor: that was all.
    End,
    /// To the standby: a launcher is about to be started for this container; our end of its socket comes along.
    Launches(String),
}

/// Which descriptors come along, in this order.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(in crate::keeper) struct Holds {
    pub(in crate::keeper) process: bool,
    pub(in crate::keeper) stdin: bool,
    pub(in crate::keeper) stdout: bool,
    pub(in crate::keeper) stderr: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::format::KEEPER_PROTOCOL;
    use crate::record::golden;

    #[test]
    fn golden_messages() {
        let holds = Holds { process: true, stdin: false, stdout: true, stderr: false };
        let message = |message: &StateMessage| KEEPER_PROTOCOL.encode(message).unwrap();
        let id = || "box".to_owned();
        let samples = [
            ("holds", message(&StateMessage::Holds(id(), holds))),
            ("gone", message(&StateMessage::Gone(id()))),
            ("end", message(&StateMessage::End)),
            ("launches", message(&StateMessage::Launches(id()))),
        ];
        golden::check("src/keeper/golden", "standby", KEEPER_PROTOCOL, &samples);
    }
}
