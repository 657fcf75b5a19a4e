//! Stop signals: the CRI has its own numbers for them.

use crate::error::{Error, Result};
use coracle_cri::v1::Signal;

/// The name of a signal, such as `SIGTERM` or `SIGRTMIN+3`; none for the runtime's default.
///
/// # Errors
/// `Invalid` for a number that the CRI does not define.
pub(super) fn signal_name(signal: i32) -> Result<Option<String>> {
    let signal = Signal::try_from(signal)
        .map_err(|_| Error::invalid(format!("stop_signal: the CRI has no signal {signal}")))?;
    if signal == Signal::RuntimeDefault {
        return Ok(None);
    }
    Ok(Some(signal.as_str_name().replacen("PLUS", "+", 1).replacen("MINUS", "-", 1)))
}

/// The CRI's signal with this name. An image may omit `SIG` and use lower case. The runtime's default for names that the
/// CRI does not define.
pub(in crate::pod) fn signal_named(name: &str) -> Signal {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let written_out = format!("SIG{}", bare.replacen('+', "PLUS", 1).replacen('-', "MINUS", 1));
    Signal::from_str_name(&written_out).unwrap_or(Signal::RuntimeDefault)
}
