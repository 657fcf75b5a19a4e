//! One connection: requests in, answers out, faults in between.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::answer::{self, Answer};
use super::{Fault, Seen, Shared, fault};

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Serves until the other side is done or something breaks.
pub(super) fn serve(tcp: TcpStream, shared: &Shared) {
    // A test that ends must not leave a thread that waits for ever.
    let _ = tcp.set_read_timeout(Some(Duration::from_secs(30)));
    let _ = tcp.set_nodelay(true);
    let own = tcp.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let scheme = if shared.tls.is_some() { "https" } else { "http" };
    let stream: Box<dyn Stream> = match &shared.tls {
        None => Box::new(tcp),
        Some(config) => match rustls::ServerConnection::new(Arc::clone(config)) {
            Ok(connection) => Box::new(rustls::StreamOwned::new(connection, tcp)),
            Err(_) => return,
        },
    };
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream) {
        shared.seen.lock().unwrap().push(request.clone());
        let fault = fault::next(&mut shared.faults.lock().unwrap(), &request.path);
        let mut request = request;
        if matches!(fault, Some(Fault::WithoutRanges | Fault::WithoutRangesCut(_))) {
            request.headers.remove("range");
        }
        let answer = respond(&request, shared, &format!("{scheme}://{own}"));
        if send(stream.get_mut(), &request, answer, fault, shared).is_none() {
            return;
        }
    }
}

fn respond(request: &Seen, shared: &Shared, own: &str) -> Answer {
    let mut auth = shared.auth.lock().unwrap();
    if request.path.starts_with("/token") {
        return auth.token(request);
    }
    let is_api = request.path.starts_with("/v2/");
    if let Some(refusal) = auth.check(request, own).filter(|_| is_api) {
        return refusal;
    }
    drop(auth);
    answer::to(request, &shared.content.lock().unwrap())
}

fn read(stream: &mut BufReader<Box<dyn Stream>>) -> Option<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    // A proxy is asked with the whole address.
    let path = path
        .strip_prefix("http://")
        .and_then(|rest| Some(rest[rest.find('/')?..].to_owned()))
        .unwrap_or(path);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Seen { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// Sends an answer; `None` when the connection is over.
fn send(
    stream: &mut dyn Write,
    request: &Seen,
    mut answer: Answer,
    fault: Option<Fault>,
    shared: &Shared,
) -> Option<()> {
    match &fault {
        Some(Fault::HangUp) => return None,
        Some(Fault::Status(status, headers)) => {
            answer = Answer::status(*status);
            answer.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        }
        Some(Fault::MovedTo(there)) if answer.status < 300 && request.path.starts_with("/v2/") => {
            answer = Answer::status(307);
            answer.headers.push(("Location".to_owned(), format!("{there}{}", request.path)));
        }
        Some(Fault::Instead(bytes)) => answer.body.clone_from(bytes),
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} so\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if request.method == "HEAD" {
        return stream.flush().ok();
    }
    match fault {
        Some(Fault::Cut(at) | Fault::WithoutRangesCut(at)) if at < answer.body.len() => {
            let _ = stream.write_all(&answer.body[..at]);
            let _ = stream.flush();
            return None;
        }
        Some(Fault::Stall(at)) if at < answer.body.len() => {
            let _ = stream.write_all(&answer.body[..at]);
            let _ = stream.flush();
            while !shared.stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            return None;
        }
        Some(Fault::Drip(size, pause)) => {
            for piece in answer.body.chunks(size) {
                stream.write_all(piece).ok()?;
                stream.flush().ok()?;
                std::thread::sleep(pause);
            }
        }
        _ => stream.write_all(&answer.body).ok()?,
    }
    stream.flush().ok()
}
