//! MicroK8s: the arguments of its kubelet, and the files that make it use Coracle.
//!
//! Facts: kubelite reads `args/kubelet` line by line, passes over empty lines and those that begin with `#`, removes quotes,
//! splits lines at spaces and expands variables. A strictly confined snap reaches only sockets below its own directory.

use std::path::Path;

use super::Node;
use super::file::{Change, read};
use crate::check::Tree;
use crate::error::{Error, Kind, Result};

const ARGUMENTS: &str = "/var/snap/microk8s/current/args/kubelet";
const CORACLE: &str = "/etc/coracle/config.d/90-microk8s.toml";
const SOCKET_UNIT: &str = "/etc/systemd/system/coracle.socket.d/90-microk8s.conf";
const SNAP: &str = "/snap/microk8s/current/meta/snap.yaml";
/// containerd's root.
pub(super) const CONTAINERD: &str = "/var/snap/microk8s/common/var/lib/containerd";
/// The socket for a strictly confined snap.
pub(super) const SOCKET: &str = "/var/snap/microk8s/common/run/coracle.sock";
const FLAG: &str = "--container-runtime-endpoint";
/// Begins the comment above our endpoint: what `enable` has set, and what was there before.
const MARK: &str = "# coracle microk8s enable: set ";
/// Between both in the comment. An endpoint has no blanks.
const WAS: &str = ", was ";
const ADDED: &str = ", which was added";

/// Whether MicroK8s is on the machine.
pub(super) fn is_installed(tree: &Tree) -> bool {
    tree.has(ARGUMENTS)
}

/// Whether the snap is confined strictly.
pub(super) fn is_strict(tree: &Tree) -> bool {
    let text = tree.text(SNAP).unwrap_or_default();
    let yaml = crate::yaml::load_as_text(&text).ok();
    yaml.is_some_and(|yaml| yaml["confinement"].as_str() == Some("strict"))
}

fn arguments(tree: &Tree) -> Result<String> {
    read(tree, ARGUMENTS.as_ref())?.ok_or_else(|| {
        Error::new(Kind::NotFound, "MicroK8s is not on this machine").hint(format!("there is no {ARGUMENTS}"))
    })
}

fn is_flag(line: &str) -> bool {
    let line = line.trim();
    !line.starts_with('#') && line.split_whitespace().any(is_word)
}

fn is_word(word: &str) -> bool {
    let word = word.trim_start_matches(['"', '\'']);
    word.strip_prefix(FLAG).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

fn not_understood(why: &str) -> Error {
    Error::new(Kind::WrongState, format!("{ARGUMENTS} {why}")).hint(format!("correct {FLAG} there by hand"))
}

/// Our comment above the endpoint.
struct Mark<'a> {
    /// The endpoint that `enable` has set.
    set: &'a str,
    /// The line that was there before, if there was one.
    was: Option<&'a str>,
}

impl<'a> Mark<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let rest = line.strip_prefix(MARK)?;
        match rest.split_once(WAS) {
            Some((set, was)) => Some(Self { set, was: Some(was) }),
            None => rest.strip_suffix(ADDED).map(|set| Self { set, was: None }),
        }
    }

    fn text(set: &str, was: Option<&str>) -> String {
        match was {
            Some(was) => format!("{MARK}{set}{WAS}{was}"),
            None => format!("{MARK}{set}{ADDED}"),
        }
    }

    /// Whether a line is still as `enable` has written it.
    fn is_kept(&self, line: Option<&&str>) -> bool {
        line.is_some_and(|line| *line == format!("{FLAG}={}", self.set))
    }
}

/// Our comment in the arguments, and the number of its line.
///
/// # Errors
/// `WrongState` if the endpoint below it was changed since.
fn mark<'a>(lines: &[&'a str]) -> Result<Option<(usize, Mark<'a>)>> {
    let found = lines.iter().enumerate().find_map(|(at, line)| Some((at, Mark::parse(line)?)));
    match found {
        Some((at, mark)) if !mark.is_kept(lines.get(at + 1)) => {
            let doing = format!(
                "{ARGUMENTS} was changed: the line after Coracle's comment is not the endpoint that it set"
            );
            Err(Error::new(Kind::WrongState, doing)
                .hint(format!("to keep your {FLAG}, remove the comment; or restore the line")))
        }
        other => Ok(other),
    }
}

/// The arguments with our endpoint, and what was there before in a comment.
fn enabled(text: &str, own: &str) -> Result<String> {
    let ours = format!("{FLAG}={own}");
    let lines: Vec<&str> = text.split('\n').collect();
    let flags: Vec<usize> = (0..lines.len()).filter(|index| is_flag(lines[*index])).collect();
    let at = match flags.as_slice() {
        [] => {
            mark(&lines)?;
            return Ok(format!("{}\n{ours}\n{text}", Mark::text(own, None)));
        }
        [at] => *at,
        _ => return Err(not_understood("has more than one endpoint")),
    };
    let line = lines[at];
    if line.split_whitespace().count() != 1 || !line.contains('=') {
        return Err(not_understood("has the endpoint in a line with something else"));
    }
    let marked = mark(&lines)?;
    let new = match &marked {
        None if line.trim() == ours => return Ok(text.to_owned()),
        None => [Mark::text(own, Some(line)), ours],
        Some((_, mark)) => [Mark::text(own, mark.was), ours],
    };
    let begin = marked.map_or(at, |(comment, _)| comment);
    let new = new.iter().map(String::as_str);
    let all = lines[..begin].iter().copied().chain(new).chain(lines[at + 1..].iter().copied());
    Ok(all.collect::<Vec<_>>().join("\n"))
}

/// The arguments as they were before [`enabled`].
fn disabled(text: &str) -> Result<String> {
    let lines: Vec<&str> = text.split('\n').collect();
    let Some((at, mark)) = mark(&lines)? else { return Ok(text.to_owned()) };
    let restored = lines[..at].iter().copied().chain(mark.was).chain(lines[at + 2..].iter().copied());
    Ok(restored.collect::<Vec<_>>().join("\n"))
}

/// What `enable` changes.
pub(super) fn enable(node: &Node) -> Result<Vec<Change>> {
    let (tree, own) = (&node.tree, node.endpoint());
    let before = arguments(tree)?;
    let after = enabled(&before, &own)?;
    let mut changes = Vec::new();
    if is_strict(tree) {
        let body = format!("socket = {SOCKET:?}\n");
        changes.extend(Change::write(tree, CORACLE.as_ref(), "microk8s", &body)?);
        let body = format!("[Socket]\nListenStream=\nListenStream={SOCKET}\n");
        changes.extend(Change::write(tree, SOCKET_UNIT.as_ref(), "microk8s", &body)?);
    }
    changes.extend(Change::edit(ARGUMENTS.as_ref(), before, after));
    Ok(changes)
}

/// What `disable` changes.
pub(super) fn disable(node: &Node) -> Result<Vec<Change>> {
    let tree = &node.tree;
    let mut changes = Vec::new();
    if let Some(before) = read(tree, ARGUMENTS.as_ref())? {
        let after = disabled(&before)?;
        // Without the files below, nothing would listen there.
        if current(&after).as_deref() == Some(node.endpoint().as_str()) {
            return Err(not_understood(
                "names Coracle's socket, without the comment that has what was there before",
            ));
        }
        changes.extend(Change::edit(ARGUMENTS.as_ref(), before, after));
    }
    for path in [CORACLE, SOCKET_UNIT] {
        changes.extend(Change::remove(tree, Path::new(path))?);
    }
    Ok(changes)
}

/// The endpoint in the arguments, without quotes.
fn current(text: &str) -> Option<String> {
    let line = text.lines().rfind(|line| is_flag(line))?;
    let (_, after) = line.split_once(FLAG)?;
    let value = after.trim_start_matches('=').split_whitespace().next()?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// Whether MicroK8s uses Coracle at its next start.
pub(super) fn is_enabled(node: &Node) -> bool {
    arguments(&node.tree).ok().and_then(|text| current(&text)) == Some(node.endpoint())
}

/// The endpoint of another runtime than MicroK8s's own, at its next start.
pub(super) fn other_endpoint(tree: &Tree) -> Option<String> {
    let endpoint = current(&arguments(tree).ok()?)?;
    let is_of_snap = ["SNAP_COMMON", "/var/snap/microk8s/"].iter().any(|part| endpoint.contains(part));
    (!is_of_snap || !endpoint.ends_with("/containerd.sock")).then_some(endpoint)
}

/// The commands that make MicroK8s use the other runtime, once the files are changed.
pub(super) fn commands(is_enable: bool, own: &str) -> Vec<String> {
    let commands: [&str; 6] = match is_enable {
        true => [
            "microk8s stop",
            "systemctl daemon-reload",
            "systemctl enable coracle.socket coracle.service",
            "systemctl restart coracle.socket coracle.service",
            "microk8s start",
            "snap stop --disable microk8s.daemon-containerd",
        ],
        false => [
            "microk8s stop",
            &format!("crictl --runtime-endpoint {own} rmp --all --force"),
            "systemctl daemon-reload",
            "systemctl restart coracle.socket coracle.service",
            "snap start --enable microk8s.daemon-containerd",
            "microk8s start",
        ],
    };
    commands.map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "unix:///run/coracle/coracle.sock";

    #[test]
    fn arguments_come_back_as_they_were() {
        for text in [
            "--a=1\n--container-runtime-endpoint=${SNAP_COMMON}/run/containerd.sock\n--b=\"x y\"\n",
            "--container-runtime-endpoint=/x",
            "  --container-runtime-endpoint='/x'  \n# --container-runtime-endpoint=/y\n\n",
            "--a=1",
            "",
            "--container-runtime=remote\r\n--container-runtime-endpoint=/x\r\n",
        ] {
            let on = enabled(text, OWN).unwrap();
            let flags: Vec<_> = on.lines().filter(|line| is_flag(line)).collect();
            assert_eq!(flags, [format!("{FLAG}={OWN}")], "{text:?}: {on:?}");
            assert_eq!(enabled(&on, OWN).unwrap(), on, "{text:?}");
            assert_eq!(disabled(&on).unwrap(), text, "{text:?}: {on:?}");
            // Another socket later.
            let moved = enabled(&on, "unix:///other").unwrap();
            assert!(moved.contains("=unix:///other") && !moved.contains(OWN), "{moved:?}");
            assert_eq!(disabled(&moved).unwrap(), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_and_the_users_own_line_is_left_alone() {
        for text in [
            "--container-runtime-endpoint=/x\n--container-runtime-endpoint=/y\n",
            "--a=1 --container-runtime-endpoint=/x\n",
            "--container-runtime-endpoint /x\n",
        ] {
            assert_eq!(enabled(text, OWN).unwrap_err().kind(), Kind::WrongState, "{text:?}");
        }
        let on = enabled("--container-runtime-endpoint=/x\n", OWN).unwrap();
        for edited in [
            on.replace(&format!("\n{FLAG}={OWN}"), &format!("\n{FLAG}=/mine")),
            on.replace(&format!("\n{FLAG}={OWN}"), ""),
        ] {
            assert_ne!(edited, on);
            for changed in [enabled(&edited, OWN), disabled(&edited)] {
                let error = changed.unwrap_err();
                assert!(
                    error.kind() == Kind::WrongState && error.chain().contains("was changed"),
                    "{edited:?}"
                );
            }
        }
        let by_hand = format!("{FLAG}={OWN}\n");
        assert_eq!(enabled(&by_hand, OWN).unwrap(), by_hand);
        assert_eq!(disabled(&by_hand).unwrap(), by_hand);
        let broken = format!("{MARK}{OWN}{WAS}{FLAG}=/x\n--a=1\n");
        assert_eq!(disabled(&broken).unwrap_err().kind(), Kind::WrongState);
    }
}
