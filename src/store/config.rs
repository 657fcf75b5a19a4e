//! The configuration of an image, as builders write it.

use oci_spec::image::ImageConfiguration;
use serde_json::Value;

/// Reads the configuration of an image. Some builders leave the platform out or write null; containerd and docker read that
/// as an empty one, and so does this.
///
/// # Errors
/// The bytes are not JSON, or not a configuration.
pub fn image_config(bytes: &[u8]) -> serde_json::Result<ImageConfiguration> {
    let mut document: Value = serde_json::from_slice(bytes)?;
    if let Some(fields) = document.as_object_mut() {
        for field in ["architecture", "os"] {
            let value = fields.entry(field).or_insert(Value::Null);
            if value.is_null() {
                *value = Value::from("");
            }
        }
    }
    serde_json::from_value(document)
}
