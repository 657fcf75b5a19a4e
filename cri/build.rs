//! Compiles `proto/api.proto`, with protox in the place of a protoc that the machine may not have.

use std::collections::{BTreeMap, BTreeSet};

/// The messages that are shown as JSON, with those that they consist of.
const SHOWN: [&str; 2] = [".runtime.v1.PodSandboxConfig", ".runtime.v1.ContainerConfig"];

/// The only field with bytes in the shown messages: the value of an environment variable.
const TEXT: &str = ".runtime.v1.KeyValue.value";

/// The fields of each message: name, and the message that it holds, if it holds one.
type Fields = BTreeMap<String, Vec<(String, String)>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/api.proto");
    let files = protox::compile(["proto/api.proto"], ["proto"])?;
    let messages = files.file.iter().flat_map(|file| &file.message_type);
    let fields: Fields = messages
        .map(|message| {
            let fields = message.field.iter();
            let fields = fields.map(|field| (field.name().to_owned(), field.type_name().to_owned()));
            (format!(".runtime.v1.{}", message.name()), fields.collect())
        })
        .collect();
    let mut config = tonic_prost_build::configure()
        // Ordered maps: equal requests then have equal bytes, and answers do not depend on chance.
        .btree_map(".")
        // Its Debug is ours: passwords stay out of logs.
        .skip_debug(["runtime.v1.AuthConfig"])
        .build_transport(false);
    for message in closure(&fields) {
        config = config.message_attribute(message, "#[derive(serde::Serialize)]");
        // As Go shows them: the names of the proto file, without what is not set.
        for (field, _) in &fields[message] {
            let path = format!("{message}.{field}");
            config = config.field_attribute(path, "#[serde(skip_serializing_if = \"crate::is_default\")]");
        }
    }
    config = config.field_attribute(TEXT, "#[serde(serialize_with = \"crate::as_text\")]");
    config.compile_fds(files)?;
    Ok(())
}

/// The shown messages, and all messages in their fields.
fn closure(fields: &Fields) -> BTreeSet<&str> {
    let mut all = BTreeSet::new();
    let mut todo = SHOWN.to_vec();
    while let Some(name) = todo.pop() {
        if let Some((message, fields)) = fields.get_key_value(name)
            && all.insert(message.as_str())
        {
            todo.extend(fields.iter().map(|(_, message)| message.as_str()));
        }
    }
    all
}
