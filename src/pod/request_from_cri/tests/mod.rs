//! What is taken, what it becomes, and what is refused by name.

mod any;
mod limits;
mod security;
mod volumes;

use super::signal::signal_name;
use super::*;
use crate::spec::request::{Profile, UserRequest, Variable};
use coracle_cri::v1;
use oci_spec::runtime::LinuxResources;

use crate::error::Kind;

fn pod() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "web-0".into(),
        log_directory: "/var/log/pods/default_web_u1".into(),
        ..Default::default()
    }
}

fn pod_with(change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext)) -> Result<SandboxRequest> {
    let mut context = v1::LinuxSandboxSecurityContext::default();
    change(&mut context);
    let linux = v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    SandboxRequest::from_cri(&v1::PodSandboxConfig { linux: Some(linux), ..pod() })
}

fn container() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "sha256:abc".into(), ..Default::default() }),
        ..Default::default()
    }
}

fn created(change: impl FnOnce(&mut v1::ContainerConfig)) -> Result<CreateRequest> {
    let mut config = container();
    change(&mut config);
    CreateRequest::from_cri(&config, &SandboxRequest::from_cri(&pod())?)
}

fn secured(change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Result<CreateRequest> {
    created(|config| {
        let mut context = v1::LinuxContainerSecurityContext::default();
        change(&mut context);
        config.linux = Some(v1::LinuxContainerConfig { security_context: Some(context), resources: None });
    })
}

fn limited(limits: v1::LinuxContainerResources) -> Result<(LinuxResources, i32)> {
    resources(Some(&limits))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, naming: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains(naming), "{error} does not name {naming}");
}

fn id(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn range(container_id: u32, host_id: u32, length: u32) -> v1::IdMapping {
    v1::IdMapping { host_id, container_id, length }
}

#[test]
fn a_pod_of_defaults_shares_its_namespaces_and_has_no_seccomp() {
    let pod = SandboxRequest::from_cri(&pod()).unwrap();
    assert_eq!(
        pod.namespaces,
        NamespaceScopes { network: Scope::Pod, pid: Scope::Pod, ipc: Scope::Pod, user: None }
    );
    assert_eq!(pod.hostname.as_deref(), Some("web-0"));
    assert_eq!(pod.resolv_conf, None);
}

#[test]
fn command_and_args_take_the_place_of_the_images() {
    let process = |command: &[&str], args: &[&str]| {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let process =
            created(|c| (c.command, c.args) = (list(command), list(args))).unwrap().container.process;
        (process.entrypoint, process.args)
    };
    assert_eq!(process(&[], &["a"]), (None, vec!["a".to_owned()]));
    assert_eq!(process(&["sh"], &[]), (Some(vec!["sh".to_owned()]), vec![]));
}

#[test]
fn environment_values_are_bytes() {
    let pair = |key: &str, value: &[u8]| v1::KeyValue { key: key.into(), value: value.into() };
    let env = |envs: Vec<v1::KeyValue>| created(|c| c.envs = envs).map(|c| c.container.process.env);
    let raw = Variable { name: "RAW".to_owned(), value: b"\xff\xfe=x".to_vec() };
    assert_eq!(env(vec![pair("RAW", b"\xff\xfe=x")]).unwrap(), [raw]);
    refused(env(vec![pair("", b"x")]), "envs");
    refused(env(vec![pair("A=B", b"x")]), "A=B");
    refused(env(vec![pair("A", b"x\0y")]), "NUL");
}

#[test]
fn a_log_stays_in_the_directory_of_its_pod() {
    let path = |path: &str| created(|c| c.log_path = path.into()).map(|w| w.log_path);
    assert_eq!(
        path("main/0.log").unwrap().unwrap().to_str(),
        Some("/var/log/pods/default_web_u1/main/0.log")
    );
    assert_eq!(path("").unwrap(), None);
    refused(path("../../etc/passwd"), "log_path");
    refused(path("/etc/passwd"), "log_path");
}

#[test]
fn paths_and_signals_are_checked() {
    refused(created(|c| c.working_dir = "relative".into()), "working_dir");
    refused(created(|c| c.stop_signal = 66), "stop_signal");
}

#[test]
fn a_resolver_file_is_written_and_nothing_can_be_smuggled_into_it() {
    let dns = |servers: &[&str], searches: &[&str], options: &[&str]| {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        let dns = v1::DnsConfig { servers: list(servers), searches: list(searches), options: list(options) };
        SandboxRequest::from_cri(&v1::PodSandboxConfig { dns_config: Some(dns), ..pod() })
            .map(|p| p.resolv_conf)
    };
    assert_eq!(
        dns(&["10.43.0.10"], &["default.svc", "svc"], &["ndots:5"]).unwrap().unwrap(),
        "search default.svc svc\nnameserver 10.43.0.10\noptions ndots:5\n"
    );
    assert_eq!(dns(&[], &[], &[]).unwrap(), None);
    refused(dns(&["1.1.1.1\nnameserver 6.6.6.6"], &[], &[]), "dns_config");
}

#[test]
fn stop_signals_have_their_usual_names() {
    assert_eq!(signal_name(0).unwrap(), None);
    assert_eq!(signal_name(v1::Signal::Sigterm.into()).unwrap().unwrap(), "SIGTERM");
    assert_eq!(signal_name(v1::Signal::Sigrtminplus3.into()).unwrap().unwrap(), "SIGRTMIN+3");
    assert_eq!(signal_named("term"), v1::Signal::Sigterm);
    assert_eq!(signal_named("SIGRTMAX-2"), v1::Signal::Sigrtmaxminus2);
    assert_eq!(signal_named("SIGFOO"), v1::Signal::RuntimeDefault);
}
