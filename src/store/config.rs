//! The configuration of an image, as builders write it.

use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

/// Reads the configuration of an image. Some builders leave fields out or write null; containerd and docker read that as an
/// empty value, and so does this.
///
/// # Errors
/// The bytes are not JSON, or not a configuration.
pub fn image_config(bytes: &[u8]) -> serde_json::Result<ImageConfiguration> {
    let mut document: Value = serde_json::from_slice(bytes)?;
    remove_nulls(&mut document);
    if let Some(fields) = document.as_object_mut() {
        fields.entry("architecture").or_insert_with(|| json!(""));
        fields.entry("os").or_insert_with(|| json!(""));
        if let Some(rootfs) = fields.entry("rootfs").or_insert_with(|| json!({})).as_object_mut() {
            rootfs.entry("type").or_insert_with(|| json!("layers"));
            rootfs.entry("diff_ids").or_insert_with(|| json!([]));
        }
    }
    serde_json::from_value(document)
}

/// Removes the fields that are null, at any depth: to Go's parser, null and absent are the same.
pub fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_are_the_same() {
        for text in [
            "{}",
            r#"{"architecture":null,"os":null,"config":null,"rootfs":null,"history":null}"#,
            r#"{"config":{"Env":null,"Labels":null,"Volumes":null,"ExposedPorts":null},"rootfs":{"diff_ids":null}}"#,
            r#"{"config":{"Labels":{"a":null}},"history":[{"created":null,"empty_layer":null}]}"#,
        ] {
            let config = image_config(text.as_bytes()).unwrap();
            assert!(config.rootfs().diff_ids().is_empty(), "{text}");
        }
        for bad in ["null", "[]", r#"{"rootfs":[]}"#, r#"{"rootfs":{"diff_ids":[1]}}"#, r#"{"os":1}"#] {
            assert!(image_config(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
