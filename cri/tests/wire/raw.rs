//! Messages written down as bytes by hand, for the calls that cAdvisor makes: their definition is not that of the server. The
//! integration tests of the whole program use this file, too.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http;

use super::connection::Wire;

pub(crate) const VERSION: &str = "/containerd.services.version.v1.Version/Version";
pub(crate) const CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
pub(crate) const TASK: &str = "/containerd.services.tasks.v1.Tasks/Get";

/// Messages as they are on the wire.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length).to_vec()))
    }
}

/// Makes a call with the header that cAdvisor sends.
pub(crate) async fn call(wire: &Wire, path: &'static str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let origin = http::Uri::from_static("http://localhost");
    let mut client = tonic::client::Grpc::with_origin(wire.clone(), origin);
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().unwrap());
    let answer = client.unary(request, path.parse().unwrap(), Raw).await?;
    Ok(answer.into_inner())
}

/// A field with bytes, with a number below 16.
pub(crate) fn bytes_field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat()
}

/// The fields of a message: varints and bytes by number.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) numbers: BTreeMap<u64, u64>,
    pub(crate) bytes: BTreeMap<u64, Vec<Vec<u8>>>,
}

pub(crate) fn fields(mut message: &[u8]) -> Fields {
    fn varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = message[0];
            *message = &message[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut all = Fields::default();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let value = varint(&mut message);
        match tag & 7 {
            0 => drop(all.numbers.insert(tag >> 3, value)),
            2 => {
                let (own, rest) = message.split_at(usize::try_from(value).unwrap());
                all.bytes.entry(tag >> 3).or_default().push(own.to_vec());
                message = rest;
            }
            kind => panic!("field of kind {kind}"),
        }
    }
    all
}

pub(crate) fn text(fields: &Fields, number: u64) -> String {
    String::from_utf8(fields.bytes[&number][0].clone()).unwrap()
}
