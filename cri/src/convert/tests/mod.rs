//! What is taken, what it becomes, and what is refused by name.

mod any;
mod limits;
mod security;
mod spec;
mod volumes;

use super::*;
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

fn pod_with(change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext)) -> Result<SandboxWishes> {
    let mut context = v1::LinuxSandboxSecurityContext::default();
    change(&mut context);
    let linux = v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    SandboxWishes::of(&v1::PodSandboxConfig { linux: Some(linux), ..pod() })
}

fn container() -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "sha256:abc".into(), ..Default::default() }),
        ..Default::default()
    }
}

fn wishes(change: impl FnOnce(&mut v1::ContainerConfig)) -> Result<ContainerWishes> {
    let mut config = container();
    change(&mut config);
    ContainerWishes::of(&config, &pod())
}

fn secured(change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> Result<ContainerWishes> {
    wishes(|config| {
        let mut context = v1::LinuxContainerSecurityContext::default();
        change(&mut context);
        config.linux = Some(v1::LinuxContainerConfig { security_context: Some(context), resources: None });
    })
}

fn limited(limits: v1::LinuxContainerResources) -> Result<Resources> {
    Resources::of(Some(&limits))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T>, naming: &str) {
    let error = answer.unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    assert!(error.message.contains(naming), "{error} does not name {naming}");
}

fn id(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn range(container_id: u32, host_id: u32, length: u32) -> v1::IdMapping {
    v1::IdMapping { host_id, container_id, length }
}

#[test]
fn a_pod_of_defaults_shares_its_namespaces_and_has_no_seccomp() {
    let pod = SandboxWishes::of(&pod()).unwrap();
    assert_eq!(
        pod.namespaces,
        Namespaces { network: Scope::Pod, pid: Scope::Pod, ipc: Scope::Pod, user: None }
    );
    assert_eq!(pod.hostname.as_deref(), Some("web-0"));
    assert_eq!(pod.confinement.seccomp, Profile::Unconfined);
    assert_eq!(pod.user, RunAs::Image);
    assert_eq!(pod.resolv_conf, None);
}

#[test]
fn a_pod_says_who_it_is() {
    let without = |change: fn(&mut v1::PodSandboxMetadata)| {
        let mut pod = pod();
        change(pod.metadata.as_mut().unwrap());
        SandboxWishes::of(&pod)
    };
    refused(SandboxWishes::of(&v1::PodSandboxConfig::default()), "metadata");
    refused(without(|m| m.name.clear()), "metadata.name");
    refused(without(|m| m.namespace.clear()), "metadata.namespace");
    refused(without(|m| m.uid.clear()), "metadata.uid");
}

#[test]
fn command_and_args_replace_what_the_image_says() {
    let image = ImageDefaults {
        entrypoint: vec!["/entry".into()],
        cmd: vec!["serve".into(), "now".into()],
        env: vec![],
    };
    let list = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let run = |command: &str, args: &str, image: &ImageDefaults| {
        let set = |c: &mut v1::ContainerConfig| (c.command, c.args) = (list(command), list(args));
        wishes(set).unwrap().arguments(image)
    };
    assert_eq!(run("", "", &image).unwrap(), list("/entry serve now"));
    assert_eq!(run("", "help", &image).unwrap(), list("/entry help"));
    assert_eq!(run("sh", "", &image).unwrap(), list("sh"));
    assert_eq!(run("sh", "-c ls", &image).unwrap(), list("sh -c ls"));
    assert_eq!(run("", "ls", &ImageDefaults::default()).unwrap(), list("ls"));
    refused(run("", "", &ImageDefaults::default()), "no command");
}

#[test]
fn environment_values_are_bytes_and_the_last_of_a_name_wins() {
    let pair = |key: &str, value: &[u8]| v1::KeyValue { key: key.into(), value: value.into() };
    let env = |envs: Vec<v1::KeyValue>| wishes(|c| c.envs = envs);
    let image = ImageDefaults { env: vec!["PATH=/img".into(), "A=image".into()], ..Default::default() };
    let all = env(vec![pair("A", b"own"), pair("RAW", b"\xff\xfe=x"), pair("A", b"last")]).unwrap();
    let expected: [&[u8]; 4] = [b"PATH=/img", b"HOSTNAME=web-0", b"A=last", b"RAW=\xff\xfe=x"];
    assert_eq!(all.environment(&image, "web-0"), expected);
    refused(env(vec![pair("", b"x")]), "envs");
    refused(env(vec![pair("A=B", b"x")]), "A=B");
    refused(env(vec![pair("A", b"x\0y")]), "NUL");
}

#[test]
fn a_log_stays_in_the_directory_of_its_pod() {
    let path = |path: &str| wishes(|c| c.log_path = path.into()).map(|w| w.log_path);
    assert_eq!(
        path("main/0.log").unwrap().unwrap().to_str(),
        Some("/var/log/pods/default_web_u1/main/0.log")
    );
    assert_eq!(path("").unwrap(), None);
    refused(path("../../etc/passwd"), "log_path");
    refused(path("/etc/passwd"), "log_path");
}

#[test]
fn a_container_names_itself_and_its_image() {
    refused(wishes(|c| c.metadata = None), "metadata");
    refused(wishes(|c| c.image = None), "image");
    refused(wishes(|c| c.working_dir = "relative".into()), "working_dir");
    refused(wishes(|c| c.stop_signal = 66), "stop_signal");
}

#[test]
fn a_resolver_file_is_written_and_nothing_can_be_smuggled_into_it() {
    let dns = |servers: &[&str], searches: &[&str], options: &[&str]| {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        let dns = v1::DnsConfig { servers: list(servers), searches: list(searches), options: list(options) };
        SandboxWishes::of(&v1::PodSandboxConfig { dns_config: Some(dns), ..pod() }).map(|p| p.resolv_conf)
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
