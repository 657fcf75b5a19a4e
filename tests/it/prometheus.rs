//! The metrics of the daemon itself, as Prometheus and other clients ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use coracle_cri::v1::{ImageSpec, PullImageRequest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::registry::{Fault, TestRegistry};
use crate::support::{Serve, container, pod_on_host, wait_until};

/// A daemon with a port for metrics.
fn with_port() -> (Serve, SocketAddr) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    (Serve::with(&format!("[metrics]\nlisten = \"{address}\"\n")), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// The status line with the headers, and the body.
fn ask(mut stream: impl Read + Write, method: &str, path: &str) -> (String, String) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The samples of an exposition: names with labels, and values. Fails on whatever is not in the format.
#[track_caller]
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut known, mut found) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(known.insert(name.to_owned(), kind.to_owned()), None, "{name} is there twice");
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            let is_known = known.contains_key(name)
                || ["_bucket", "_sum", "_count"].iter().any(|ending| {
                    name.strip_suffix(ending)
                        .is_some_and(|base| known.get(base).is_some_and(|k| k == "histogram"))
                });
            assert!(is_known, "{line} has no type");
            assert_eq!(
                found.insert(sample.to_owned(), value.parse().unwrap()),
                None,
                "{sample} is there twice"
            );
        }
    }
    found
}

#[test]
fn the_life_of_a_pod_is_seen_in_the_metrics() {
    needs!(root, busybox, launch_verb);
    let (serve, address) = with_port();
    let scrape = || {
        let (head, body) = ask(connect(address), "GET", "/metrics");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
        samples(&body)
    };
    let before = scrape();
    assert_eq!(before["coracle_pods{state=\"ready\"}"], 0.0);
    assert_eq!(before["coracle_pod_start_duration_seconds_count"], 0.0);
    let pod = serve.logged(pod_on_host("seen"));
    let id = serve.run_pod(&pod);
    serve.run_container(&id, &pod, &container(&pod, "runs", "sleep 1000"));
    let ended = serve.run_container(&id, &pod, &container(&pod, "ends", "true"));
    serve.exited(&ended);
    serve.try_create(&id, &pod, &container(&pod, "waits", "true")).unwrap();
    let mut broken = container(&pod, "broken", "");
    broken.command = vec!["/no/such".to_owned()];
    let broken = serve.try_create(&id, &pod, &broken).unwrap();
    serve.try_start(&broken).unwrap_err();
    let now = scrape();
    for (sample, value) in [
        ("coracle_pods{state=\"ready\"}", 1.0),
        ("coracle_containers{state=\"running\"}", 1.0),
        ("coracle_containers{state=\"exited\"}", 2.0),
        ("coracle_containers{state=\"created\"}", 1.0),
        ("coracle_pod_start_duration_seconds_count", 1.0),
        ("coracle_pod_start_duration_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("coracle_container_start_duration_seconds_count", 2.0),
        ("coracle_container_start_failures_total", 1.0),
        ("coracle_store_images", 1.0),
        ("coracle_store_damaged_layers", 0.0),
        ("coracle_healthy{component=\"keeper\"}", 1.0),
        ("coracle_healthy{component=\"store\"}", 1.0),
        ("coracle_healthy{component=\"network\"}", 0.0),
    ] {
        assert_eq!(now.get(sample), Some(&value), "{sample}: {now:#?}");
    }
    let errors: f64 = now
        .iter()
        .filter(|(name, _)| name.starts_with("coracle_errors_total{call=\"StartContainer\""))
        .map(|(_, value)| value)
        .sum();
    assert_eq!(errors, 1.0);
    assert!(now["coracle_store_bytes"] > 0.0);
    for process in ["daemon", "keeper"] {
        let bytes = now[&format!("coracle_memory_bytes{{process=\"{process}\"}}")];
        assert!((100e3..200e6).contains(&bytes), "{process}: {bytes}");
    }
    serve.removes_all();
}

#[test]
fn health_is_told_by_the_status_and_only_reads_are_answered() {
    needs!(root, launch_verb);
    let (serve, address) = with_port();
    let (head, body) = ask(connect(address), "GET", "/healthz");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(body.contains("keeper: ok") && body.contains("store: ok"), "{body}");
    let (head, body) = ask(connect(address), "HEAD", "/healthz");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head} {body}");
    for (method, path, status) in [
        ("POST", "/metrics", "405"),
        ("DELETE", "/healthz", "405"),
        ("GET", "/", "404"),
        ("GET", "/metrics/x", "404"),
    ] {
        let (head, _) = ask(connect(address), method, path);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {head}");
    }
    // The journal is gone: nothing is known of any image.
    let (journal, away) = (serve.path("store/journal"), serve.path("store/journal.away"));
    std::fs::rename(&journal, &away).unwrap();
    std::fs::create_dir(&journal).unwrap();
    let (head, body) = ask(connect(address), "GET", "/healthz");
    assert!(head.starts_with("HTTP/1.1 503 ") && body.contains("keeper: ok"), "{head} {body}");
    let (_, body) = ask(connect(address), "GET", "/metrics");
    let unknown = samples(&body);
    assert_eq!(unknown["coracle_healthy{component=\"store\"}"], 0.0);
    for name in ["images", "bytes", "files", "damaged_layers"] {
        assert!(!unknown.contains_key(&format!("coracle_store_{name}")), "{name}: {body}");
    }
    std::fs::remove_dir(&journal).unwrap();
    std::fs::rename(&away, &journal).unwrap();
    for name in ["layers", "blobs"] {
        let (path, away) = (serve.path(&format!("store/{name}")), serve.path("away"));
        std::fs::rename(&path, &away).unwrap();
        let (head, body) = ask(connect(address), "GET", "/healthz");
        assert!(head.starts_with("HTTP/1.1 503 ") && body.contains(name), "{head} {body}");
        std::fs::rename(&away, &path).unwrap();
    }
    assert!(ask(connect(address), "GET", "/healthz").0.starts_with("HTTP/1.1 200 "));
}

/// The number of threads of a process.
fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn a_keeper_that_hangs_is_reported_soon_and_asked_by_few_threads() {
    needs!(root, launch_verb);
    let (serve, address) = with_port();
    assert!(ask(connect(address), "GET", "/healthz").0.starts_with("HTTP/1.1 200 "));
    let keeper = Pid::from_raw(serve.kept().keeper().0).unwrap();
    kill_process(keeper, Signal::STOP).unwrap();
    let before = threads(serve.pid());
    let begin = Instant::now();
    let (head, body) = ask(connect(address), "GET", "/healthz");
    assert!(
        head.starts_with("HTTP/1.1 503 ") && body.contains("keeper: the keeper does not answer"),
        "{body}"
    );
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    // Clients that leave at once.
    for _ in 0..40 {
        let mut stream = connect(address);
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let now = threads(serve.pid());
        assert!(now <= before + 8, "{now} threads, {before} before");
    }
    let begin = Instant::now();
    let (_, body) = ask(connect(address), "GET", "/metrics");
    assert_eq!(samples(&body).get("coracle_healthy{component=\"keeper\"}"), Some(&0.0), "{body}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    kill_process(keeper, Signal::CONT).unwrap();
    assert!(ask(connect(address), "GET", "/healthz").0.starts_with("HTTP/1.1 200 "));
    wait_until("the threads to end", || (threads(serve.pid()) <= before + 1).then_some(()));
}

#[test]
fn clients_that_are_slow_many_or_large_are_cut_off_and_the_cri_goes_on() {
    needs!(root, launch_verb);
    let (serve, address) = with_port();
    // More than may be open; none sends a request.
    let idle: Vec<_> = (0..40).map(|_| connect(address)).collect();
    let closed = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        match stream.read(&mut [0; 64]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    };
    wait_until("connections beyond the limit to be closed", || {
        (idle.iter().filter(|stream| closed(stream)).count() >= 32).then_some(())
    });
    assert_eq!(serve.all().0, [""; 0]);
    // They keep nobody out.
    for _ in 0..10 {
        let more: Vec<_> = (0..8).map(|_| connect(address)).collect();
        let (head, _) = ask(connect(address), "GET", "/healthz");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        drop(more);
    }
    let begin = Instant::now();
    while !idle.iter().all(closed) {
        assert!(begin.elapsed() < Duration::from_secs(30), "idle connections stay open");
        std::thread::sleep(Duration::from_millis(50));
    }
    // A head that never ends.
    let mut large = connect(address);
    let sent = (0..100).try_for_each(|_| large.write_all(&[b'x'; 4096]));
    let mut answer = String::new();
    let end = large.read_to_string(&mut answer);
    assert!(sent.is_err() || end.is_err() || !answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (head, _) = ask(connect(address), "GET", "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[test]
fn a_unix_socket_serves_root_and_its_group_and_goes_with_the_daemon() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let socket = serve.path("metrics.sock");
    serve.configure(&format!("[metrics]\nlisten = {:?}\n", format!("unix:{}", socket.display())));
    serve.start();
    let (head, body) = ask(UnixStream::connect(&socket).unwrap(), "GET", "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && !samples(&body).is_empty(), "{head}");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    serve.kill();
    serve.start();
    ask(UnixStream::connect(&socket).unwrap(), "GET", "/healthz");
    serve.stop();
    assert!(!socket.exists());
}

#[test]
fn a_port_that_is_taken_is_told_and_keeps_nothing_from_running() {
    needs!(root, launch_verb);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let serve = Serve::with(&format!("[metrics]\nlisten = \"{address}\"\n"));
    assert!(serve.log().contains(&format!("listen on {address}")), "{}", serve.log());
    let refused = Serve::stopped("[metrics]\nlisten = \"everywhere\"\n");
    let refused = refused.prepare().go().fails();
    assert!(refused.stderr.contains("everywhere"), "{refused}");
}

#[test]
fn pulls_are_counted_with_their_bytes_and_with_what_was_resumed() {
    needs!(root, launch_verb);
    let (serve, address) = with_port();
    let registry = TestRegistry::start();
    let (layer, data) = registry.big("app:1", 300_000);
    registry.fault(&layer, 3, Fault::Cut(80_000));
    let pull = |name: &str| {
        let image = Some(ImageSpec { image: registry.name(name), ..ImageSpec::default() });
        serve.run(serve.image().pull_image(PullImageRequest { image, ..PullImageRequest::default() }))
    };
    pull("app:1").unwrap();
    pull("none:1").unwrap_err();
    let now = samples(&ask(connect(address), "GET", "/metrics").1);
    assert_eq!(now["coracle_pull_duration_seconds_count"], 1.0);
    assert_eq!(now["coracle_pull_failures_total"], 1.0);
    assert_eq!(now["coracle_pull_resumes_total"], 3.0);
    let bytes = now["coracle_pull_bytes_total"];
    let size = data.len() as f64;
    assert!((size..size * 1.1).contains(&bytes), "{bytes} of {size}: each byte counts once");
    assert_eq!(now["coracle_errors_total{call=\"PullImage\",code=\"NotFound\"}"], 1.0);
}

/// The names of metrics in an expression.
fn names_in(expression: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_part(c)).filter(|word| word.starts_with("coracle_"));
    words.map(str::to_owned).collect()
}

/// All values of these keys in a document.
fn values<'a>(value: &'a Value, keys: &[&str], found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                match inner {
                    Value::String(text) if keys.contains(&key.as_str()) => found.push(text),
                    _ => values(inner, keys, found),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|inner| values(inner, keys, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_and_the_alerts_name_only_metrics_that_exist() {
    needs!(root, launch_verb);
    let (_serve, address) = with_port();
    let exposed = samples(&ask(connect(address), "GET", "/metrics").1);
    let mut names: BTreeSet<_> =
        exposed.keys().map(|key| key.split('{').next().unwrap().to_owned()).collect();
    // Nothing has failed yet.
    names.insert("coracle_errors_total".to_owned());
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("deb/files/metrics");
    let text = std::fs::read_to_string(project.join("coracle-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut expressions = Vec::new();
    values(&dashboard, &["expr", "query"], &mut expressions);
    let rules = std::fs::read_to_string(project.join("coracle-alerts.yml")).unwrap();
    let alerts = rules.matches("- alert:").count();
    let mut lines = rules.lines().peekable();
    let mut rules = Vec::new();
    while let Some(line) = lines.next() {
        match line.trim().strip_prefix("expr:").map(str::trim) {
            Some("|") => rules.push(lines.next().unwrap().to_owned()),
            Some(text) => rules.push(text.to_owned()),
            None => {}
        }
    }
    assert_eq!(rules.len(), alerts);
    expressions.extend(rules.iter().map(String::as_str));
    let used: BTreeSet<_> = expressions.iter().flat_map(|text| names_in(text)).collect();
    let unknown: Vec<_> = used.difference(&names).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(used.len() > 15, "{used:?}");
}
